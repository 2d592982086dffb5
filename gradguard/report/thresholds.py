"""The thresholds above which a check alerts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of alerts; a confirmed bug alerts whatever they are.

    Attributes:
        discrepancy: ||n - g|| / (||n|| + ||g||) above this.
        ratio_drift: |log(ratio / the first confirmed ratio)| above this.
        sign_agreement: A share of agreeing signs below this.
        false_alarms: The chance that the evidence of a run of 10,000 checks raises even one false alarm. An alarm leads
            to an examination of the tensor, which reports a bug only if it confirms it.
        relevant: A confirmed discrepancy below this is logged at level INFO, and is no bug.

    Raises:
        ValueError: a threshold is out of its range.
    """

    discrepancy: float = 1e-2
    ratio_drift: float = 1e-2
    sign_agreement: float = 0.99
    false_alarms: float = 0.01
    relevant: float = 1e-4

    def __post_init__(self) -> None:
        for name, top in (("discrepancy", 1), ("ratio_drift", float("inf")), ("false_alarms", 1)):
            value = getattr(self, name)
            if not 0 < value < top:
                raise ValueError(f"Thresholds.{name} is {value!r}; expected a number above 0 and below {top}")
        if not 0 <= self.relevant < 1:
            raise ValueError(f"Thresholds.relevant is {self.relevant!r}; expected a number from 0 to below 1")
        if not 0 <= self.sign_agreement <= 1:
            raise ValueError(f"Thresholds.sign_agreement is {self.sign_agreement!r}; expected a number from 0 to 1")
