import numpy as np

from gradguard.arrays import Array
from gradguard.perturbation import Float64Copies, Move, PerturbedArray, displace_all


class Half(PerturbedArray):
    """The half of a tensor that this process holds; another process moves the other half alike."""

    sums = 0

    def displace_part(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Of this half."""
        return self.displace(vector, amount, gradient)

    def sum_parts(self, products: Array) -> Array:
        """Both halves."""
        Half.sums += 1
        return 2 * products


def test_several_tensors_move_at_once() -> None:
    """Each along its own vector by its own amount, as the loss sees them; afterwards they are where they were."""
    rng = np.random.default_rng(0)
    live = {"W": rng.normal(size=(3, 4)), "b": rng.normal(size=4)}
    vectors = {name: rng.normal(size=array.shape) for name, array in live.items()}
    gradients = {name: rng.normal(size=array.shape) for name, array in live.items()}
    space = Float64Copies(live)
    with space.moving("W") as w, space.moving("b") as b:
        moves = [Move(w, vectors["W"], 0.5, gradients["W"]), Move(b, vectors["b"], -2.0, gradients["b"])]
        products = displace_all(moves)
        for name, amount in (("W", 0.5), ("b", -2.0)):
            assert np.array_equal(space.arrays[name], live[name] + amount * vectors[name])
    expected = [
        [amount * np.vdot(vectors[name], vectors[name]), amount * np.vdot(vectors[name], gradients[name])]
        for name, amount in (("W", 0.5), ("b", -2.0))
    ]
    assert np.allclose(products, expected, rtol=1e-12)
    assert all(np.array_equal(space.arrays[name], live[name]) for name in live)


def test_parts_of_tensors_are_added_up_once_and_whole_tensors_not() -> None:
    """However many tensors are spread over processes; the order of the moves is that of the products."""
    one = np.ones(2)
    tensors = [Half(one.copy(), one), PerturbedArray(one.copy(), one), Half(one.copy(), one)]
    products = displace_all(
        Move(tensor, one, amount, 3 * one) for tensor, amount in zip(tensors, (1, 2, 4), strict=True)
    )
    assert products.tolist() == [[4, 12], [4, 12], [16, 48]]
    assert Half.sums == 1
