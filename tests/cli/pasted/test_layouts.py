"""Layouts in which programs print gradients and in which people paste them."""

import numpy as np
import pytest

from gradguard.cli.pasted import parse

G = [0.12347, 0.2191, -0.30073, 0.0513, -0.00411, 1.052]
N = [0.24694, 0.4382, -0.60146, 0.1026, -0.00822, 2.104]
G_TEXT, N_TEXT = " ".join(map(str, G)), " ".join(map(str, N))
MATRICES = np.reshape(N, (2, 3)), np.reshape(G, (2, 3))
TORCH = "tensor([[0.24694, 0.4382, -0.60146],\n        [0.1026, -0.00822, 2.104]], dtype=torch.float64)"
LINES_OF_GTEST = """\
The difference between computed_gradient and estimated_gradient is {d}, which exceeds threshold_ * scale, where
computed_gradient evaluates to {g},
estimated_gradient evaluates to {n}, and
threshold_ * scale evaluates to 0.01."""
COURSERA = """
The above two columns you get should be very similar.
(Left-Your Numerical Gradient, Right-Analytical Gradient)

If your backpropagation implementation is correct, then
the relative difference will be small (less than 1e-9).

Relative Difference: 0.333333
"""


def lines(header: str, row: str, footer: str = "") -> str:
    """A line for each pair, with its place, its error and its relative error."""
    rows = [
        row.format(n=n, g=g, i=i, j=i + 1, d=abs(n - g), r=abs(n - g) / abs(n + g))
        for i, (n, g) in enumerate(zip(N, G, strict=True))
    ]
    return "\n".join([*([header] if header else []), *rows, footer])


def read_only_tensor(text: str) -> tuple[str, list[float], list[float], str]:
    """The name, n, g and the notes of a text with one tensor."""
    pasted = parse(text, "all")
    ((name, columns),) = pasted.tensors.items()
    return name, list(map(float, columns.numeric)), list(map(float, columns.analytic)), " ".join(pasted.notes)


LABELLED = {
    "csv": lines("n,g", "{n},{g}"),
    "csv, analytic first": lines("analytic,numeric", "{g},{n}"),
    "csv, words": lines("numerical gradient,backprop gradient", "{n},{g}"),
    "csv, trailing commas": lines("numeric,analytic,", "{n},{g},"),
    "csv, quotes": lines('"numeric","analytic"', '"{n}","{g}"'),
    "csv, brackets": lines("numeric,analytic", "[{n}],[{g}]"),
    "csv, nan where both are zero": lines("numeric,analytic,relative error", "{n},{g},{r}").replace("0.33", "nan", 1),
    "csv, header above aligned rows": lines("analytic,numeric", "{g}   {n}"),
    "csv, named after its parameter": lines("dW_num,dW", "{n},{g}"),
    "csv, abbreviations": lines("fd,ad", "{n},{g}"),
    "tabs": lines("numerical\tanalytical", "{n}\t{g}"),
    "decimal commas": lines("numeric;analytic", "{n};{g}").replace(".", ","),
    "the question": lines("numerical:    backpropped:\n", "{n:<14}{g}"),
    "aligned, with a relative error": lines("analytic numeric relative error", "{g} {n} {r:.3e}"),
    "aligned, with a column that has no header": lines("numeric analytic", "{n} {g} {r:.3e}"),
    "aligned, with the places of pandas": lines("   numeric  analytic", "{i}  {n:9f}  {g:9f}"),
    "aligned, with rows left out": lines("numerical  analytic", "{n}  {g}", "...        ...\n"),
    "aligned, unicode minus": lines("numeric analytic", "{n} {g}").replace("-", "\u2212"),
    "a, n => err": lines("a, n => err", "{g}, {n} => {r:.4f}"),
    "n vs g": lines("n vs g", "{n} vs {g}"),
    "prose above": lines("Here are the numerical and analytic gradients of my LSTM:\n", "{n}  {g}"),
    "Coursera's prose below": lines("", "   {n:.5e}   {g:.5e}", COURSERA),
    "Markdown": lines("| n (numerical) | g (backprop) |\n|---|---|", "| {n} | {g} |"),
    "Markdown, places and errors": lines("| i | bp | numeric | rel. error |\n|:--|---:|--|--|", "|{i}|{g}|{n}|{r}|"),
    "a box of signs": lines("+---+---+\n| numerical | analytic |\n+---+---+", "| {n} | {g} |", "+---+---+"),
    "LaTeX": lines(r"numerical & analytic \\ \hline", r"{n} & {g} \\"),
    "R": lines("          num      ana", "[{j},] {n} {g}"),
    "HTML": lines("<tr><th>numerical</th><th>analytic</th></tr>", "<tr><td>{n}</td><td>{g}</td></tr>"),
    "cs231n": lines("", "numerical: {n:f} analytic: {g:f}, relative error: {r:e}"),
    "d= nd=": lines("", "d={g} nd={n}"),
    "equal signs": lines("", "n = {n}, g = {g}"),
    "places in front": lines("", "({i}, 0) numerical {n} analytic {g}"),
    "two lines a pair": lines("", "numerical: {n}\nanalytic: {g}\n"),
    "a sentence": lines("", "Numeric gradient is {n}, backprop gradient is {g}"),
    "a log": lines("", "[2024-01-01 12:00:00] INFO step 3: numerical={n} analytic={g}"),
    "GoogleTest": lines("", LINES_OF_GTEST),
    "PyTorch's gradcheck": "GradcheckError: Jacobian mismatch for output 0 with respect to input 0,\n"
    f"numerical:{TORCH}\nanalytical:{TORCH}\n".replace(TORCH, TORCH.replace("0.24694", "0.24694"), 1),
    "TensorFlow": f"max_error: 0.5\ntheoretical:\n{MATRICES[1]}\nnumerical:\n{MATRICES[0]}",
    "arrays of NumPy": f"numeric {MATRICES[0]}\nanalytic {MATRICES[1]}",
    "arrays of NumPy, repr": f"numeric: {MATRICES[0]!r}\nanalytic: {MATRICES[1].astype(np.float32)!r}",
    "scalars of NumPy": f"numeric = {[np.float64(n) for n in N]!r}\nbackprop = {[np.float64(g) for g in G]!r}",
    "two arrays on a line": f"numeric [{N_TEXT}] analytic [{G_TEXT}]",
    "a dict": str({"numerical": N, "analytic": G}),
    "MATLAB literals": f"numgrad = [{N_TEXT.replace(' ', '; ')}];\ngrad = [{G_TEXT.replace(' ', '; ')}];",
    "MATLAB columns": "numgrad =\n\n  Columns 1 through 3\n\n 0.24694 0.4382 -0.60146\n\n  Columns 4 through 6\n\n"
    f" 0.1026 -0.00822 2.104\n\ngrad =\n\n {G_TEXT}\n",
    "MATLAB, a factor of all": "numgrad =\n\n   1.0e+03 *\n\n"
    + "".join(f"  {n / 1000:.8f}\n" for n in N)
    + "\ngrad =\n\n"
    + "".join(f"  {g}\n" for g in G),
    "Octave": "numgrad =\n\n" + "".join(f"  {n}\n" for n in N) + "\ngrad =\n\n" + "".join(f"  {g}\n" for g in G),
    "Julia": "julia> numerical\n6-element Vector{Float64}:\n"
    + "".join(f"  {n}\n" for n in N)
    + "\njulia> analytic\n6-element Vector{Float64}:\n"
    + "".join(f"  {g}\n" for g in G),
    "Julia, Float32": f"numeric = Float32[{N_TEXT.replace(' ', 'f0, ')}f0]\nanalytic = [{G_TEXT}]",
    "R vectors": f"> numgrad\n[1] {N_TEXT}\n> grad\n[1] {G_TEXT}\n",
    "C arrays": "const double numeric[6] = {" + N_TEXT.replace(" ", ", ") + "};\n"
    "double analytic[6] = {" + G_TEXT.replace(" ", ", ") + "};",
}


@pytest.mark.parametrize("layout", [name for name in LABELLED if "gradcheck" not in name])
def test_labelled_numbers_are_read_as_their_labels_say(layout: str) -> None:
    """Headers, labels and legends decide which is which, and nothing is assumed."""
    name, n, g, notes = read_only_tensor(LABELLED[layout])
    assert (name, n, g, notes) == ("all", pytest.approx(N), pytest.approx(G), "")


def test_the_message_of_gradcheck_is_read() -> None:
    """Its tensors have brackets, line breaks and a dtype; the numbers of its sentence are places."""
    _, n, g, notes = read_only_tensor(LABELLED["PyTorch's gradcheck"])
    assert (n, g, notes) == (N, N, "")


UNLABELLED = {
    "columns": lines("", "{n}  {g}"),
    "tabs": lines("", "{n}\t{g}"),
    "decimal commas": lines("", "{n}\t{g}").replace(".", ","),
    "trailing commas": lines("", "{n}, {g},"),
    "quotes": lines("", '"{n}" "{g}"'),
    "Fortran": lines("", "{n:.6E} {g:.6E}").replace("E", "D"),
    "powers of ten": lines("", "{n}\u00d710^0   {g}*10^-0"),
    "Mathematica": lines("", "{n}*^0 {g}*^0"),
    "a relative error": lines("", "{n} {g} {r:.3e}"),
    "arrow and error": lines("", "{n}, {g} => {r:e}"),
    "arrow": lines("", "{n} -> {g}"),
    "versus": lines("", "{n} vs. {g}"),
    "places and errors": lines("", "{i} {n} {g} {d:.3e} {r:.3e}"),
    "pairs": str(list(zip(N, G, strict=True))),
    "nested lists": str([list(pair) for pair in zip(N, G, strict=True)]),
    "an array of NumPy": str(np.array([N, G]).T),
    "a literal of MATLAB": "[" + "; ".join(f"{n} {g}" for n, g in zip(N, G, strict=True)) + "]",
    "a matrix of Julia": lines("6\u00d72 Matrix{Float64}:", "  {n}  {g}"),
    "a matrix of R": lines("          [,1]      [,2]", "[{j},] {n} {g}"),
    "an answer of MATLAB": lines("ans =\n", "   {n}   {g}"),
    "two arrays": f"{N}\n{G}\n",
}


@pytest.mark.parametrize("layout", UNLABELLED)
def test_without_labels_the_first_is_numerical_and_a_note_says_so(layout: str) -> None:
    """The note names both columns, and how to swap them; doing so swaps them."""
    name, n, g, notes = read_only_tensor(UNLABELLED[layout])
    assert (name, n, g) == ("all", pytest.approx(N), pytest.approx(G))
    assert "was read as numerical and " in notes
    assert "to swap them, put the line `analytic,numeric` first" in notes
    _, n, g, notes = read_only_tensor(f"analytic,numeric\n{UNLABELLED[layout]}")
    assert (n, g, notes) == (pytest.approx(G), pytest.approx(N), "")


def pair(header: str, row: str, second_header: str) -> str:
    """Numbers of W1, of which n is twice g, and those of b1, which agree."""
    rows = [(0.2469, 0.12345), (0.4382, 0.2191), (-0.6, -0.3)]
    first = [row.format(name="W1", i=i, n=n, g=g) for i, (n, g) in enumerate(rows)]
    second = [row.format(name="b1", i=i, n=g, g=g) for i, (_, g) in enumerate(rows)]
    return "\n".join([header, *first, second_header, *second])


TWO_TENSORS = {
    "headings": pair("W1:", "{n} {g}", "\nb1:"),
    "headings in brackets": pair("[W1]", "{n} {g}", "[b1]"),
    "headings above sentences": pair(
        "Checking W1", "numerical: {n} analytic: {g}, relative error: 3e-1", "Checking b1"
    ),
    "a header below each heading": pair("W1\nn,g", "{n},{g}", "\nb1\nn,g"),
    "one header above all": pair("numeric analytic\nW1", "{n} {g}", "b1"),
    "one header of a CSV above all": pair("numeric,analytic\nW1", "{n},{g}", "b1"),
    "Markdown": pair("## W1\n\n| n | g |\n|--|--|", "| {n} | {g} |", "\n## b1\n\n| n | g |\n|--|--|"),
    "a column": pair("param numeric analytic", "{name} {n} {g}", ""),
    "a column of a CSV": pair("param,index,numeric,analytic", '{name},"({i}, 0)",{n},{g}', ""),
    "places": pair("numeric analytic", "{name}[{i},0] {n} {g}", ""),
    "names in sentences": pair("", "{name}[{i}]: numerical {n}, analytic {g}", ""),
    "Karpathy's": pair("", "OK checking param {name} index ({i}, 3) (val = +0.1), analytic = {g}, numerical = {n}", ""),
    "DL4J's": pair("", "Param {i} ({name}) FAILED: grad= {g}, numericalGrad= {n}, relError= 0.3", ""),
    "blocks": "numeric:\n  W1: [0.2469, 0.4382, -0.6]\n  b1: [0.12345, 0.2191, -0.3]\n"
    "analytic:\n  W1: [0.12345, 0.2191, -0.3]\n  b1: [0.12345, 0.2191, -0.3]",
    "a word for one of the two": pair("", "{name} grad: {g}, {name} numerical grad: {n}", ""),
    "places in brackets of their own": pair("", "{name}[{i}][0]: n={n} g={g}", ""),
    "named arrays": "numerical gradient of W1: [0.2469 0.4382 -0.6]\nanalytic gradient of W1: [0.12345 0.2191 -0.3]\n"
    "numerical gradient of b1: [0.12345 0.2191 -0.3]\nanalytic gradient of b1: [0.12345 0.2191 -0.3]",
    "arrays, one of each without a role": "W1 = [0.12345 0.2191 -0.3]\nW1_num = [0.2469 0.4382 -0.6]\n"
    "b1 =\n [0.12345 0.2191 -0.3]\nb1_num =\n [0.12345 0.2191 -0.3]",
}


@pytest.mark.parametrize("layout", TWO_TENSORS)
def test_tensors_are_told_apart_by_their_names(layout: str) -> None:
    """By headings, by a column, or by what stands beside the numbers."""
    tensors = parse(TWO_TENSORS[layout], "all").tensors
    assert list(tensors) == ["W1", "b1"]
    assert list(map(float, tensors["W1"].numeric)) == [0.2469, 0.4382, -0.6]
    assert list(map(float, tensors["W1"].analytic)) == [0.12345, 0.2191, -0.3]
    assert tensors["b1"].numeric == tensors["b1"].analytic


def test_columns_are_the_same_in_all_tensors() -> None:
    """A tensor of two rows with a place and an error beside the gradients is no pair of arrays."""
    rows = [(0.2469, 0.12345), (0.4382, 0.2191), (-0.6, -0.3)]
    first = "".join(f"{i} {n} {g} 0.3333\n" for i, (n, g) in enumerate(rows))
    second = "".join(f"{i} {g} {g} 0.0\n" for i, (_, g) in enumerate(rows[:2]))
    tensors = parse(f"W1\n{first}b1\n{second}", "all").tensors
    assert (tensors["W1"].numeric, tensors["b1"].numeric) == (["0.2469", "0.4382", "-0.6"], ["0.12345", "0.2191"])


def test_names_of_parameters_are_no_labels() -> None:
    """`backbone` and `relu1` begin like words for gradients and errors."""
    for name in (
        "backbone.layer1.weight",
        "relu1",
        "embedding",
        "estimator.bias",
        "norm1.weight",
        "relative_position_bias",
    ):
        assert read_only_tensor(lines(f"{name}\nnumeric analytic", "{n} {g}"))[0] == name


def test_rows_that_are_named_one_by_one_are_one_tensor() -> None:
    """A tensor for each number could not be diagnosed."""
    assert read_only_tensor("Wx: 0.2 0.1\nWh: 0.4 0.2\nb: 0.3 0.15\n")[:2] == ("all", [0.2, 0.4, 0.3])


@pytest.mark.parametrize("header", ["numeric analytic\n", ""])
def test_a_typo_is_skipped_with_a_note(header: str) -> None:
    """The note has the line and the text."""
    _, n, _, notes = read_only_tensor(f"{header}0.2 0.1\n0.4 6.266e-0.6\n0.6 0.3\n")
    assert n == [0.2, 0.6]
    assert f"skipped line {3 if header else 2}: '6.266e-0.6' is not a number" in notes


def test_numbers_without_a_label_among_labelled_ones_are_noted() -> None:
    """They are not silently left out."""
    _, n, _, notes = read_only_tensor("numeric 0.2 analytic 0.1\n0.3 0.4\nnumeric 0.6 analytic 0.3\n")
    assert (n, notes) == ([0.2, 0.6], "skipped line 2: 2 numbers without a label")


def test_a_typo_in_an_array_takes_its_partner_along() -> None:
    """The pairs behind it stay pairs."""
    _, n, g, notes = read_only_tensor("numeric: [0.2 0.4.1 0.6 0.8]\nanalytic: [0.1 0.2 0.3 0.4]\n")
    assert (n, g) == ([0.2, 0.6, 0.8], [0.1, 0.3, 0.4])
    assert "skipped line 1: '0.4.1' is not a number" in notes


def test_what_was_written_is_kept_to_the_last_zero() -> None:
    """The last decimal shows how far the numbers were rounded."""
    columns = parse("numeric analytic\n0.2000 1.50e-3\n", "W").tensors["W"]
    assert (columns.numeric, columns.analytic) == (["0.2000"], ["1.50e-3"])


def test_thousands_of_rows_are_read() -> None:
    """As many as a dump of all entries has."""
    rows = "".join(f"{k / 7:.6f} {k / 14:.6f}\n" for k in range(20_000))
    assert len(read_only_tensor(f"numeric analytic\n{rows}")[1]) == 20_000
