"""The words gradguard answers with."""

from enum import StrEnum


class Verdict(StrEnum):
    """What a check concludes about one tensor's gradient, or about all of them."""

    ok = "ok"
    float_precision = "float_precision"
    inconclusive = "inconclusive"
    scale = "scale"
    sign = "sign"
    missing = "missing"
    spurious = "spurious"
    clipped = "clipped"
    structure = "structure"
    kink = "kink"
    nondeterministic = "nondeterministic"
    nonfinite = "nonfinite"

    @property
    def is_bug(self) -> bool | None:
        """True for a wrong gradient, False for a right one, None where the check cannot tell."""
        return {0: False, 1: False, 2: None, 3: True}[self.level]

    @property
    def is_factor(self) -> bool:
        """Whether one number, n / g, says all that is wrong."""
        return self in (Verdict.scale, Verdict.sign)

    @property
    def level(self) -> int:
        """How grave: 0 agrees, 1 float precision explains it, 2 cannot tell, 3 a bug."""
        match self:
            case Verdict.ok:
                return 0
            case Verdict.float_precision:
                return 1
            case Verdict.inconclusive | Verdict.kink | Verdict.nondeterministic:
                return 2
            case _:
                return 3
