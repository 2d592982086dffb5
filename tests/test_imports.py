import subprocess
import sys


def test_importing_gradguard_does_not_import_tensorboard() -> None:
    """Nor the models for tests, nor any framework; a check does not either."""
    code = (
        "import sys, numpy as np, gradguard\n"
        "w = {'w': np.array([0.3, 0.7])}\n"
        "problem = {'w': np.cos(w['w'])}, lambda: np.sin(w['w']).sum()\n"
        "gradguard.check(w, *problem)\n"
        "with gradguard.GradGuard(w) as guard:\n"
        "    guard.after_backward(0, *problem)\n"
        "heavy = {'tensorboard', 'torch', 'jax', 'tensorflow', 'tqdm', 'google', 'wandb', 'mlflow'}\n"
        "print(sorted((heavy | {'gradguard.testing'}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
