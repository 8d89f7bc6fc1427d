"""What a check says: proved, refuted with a witness, or unknown. Unknown is not proved."""

from dataclasses import asdict, dataclass
from typing import Protocol

from kdtool.rmt import Program

__all__ = ["Check", "Finding", "Report", "proved", "refuted", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One claim about a program. `witness` shows a refuted claim: an entry, an input, a number."""

    check: str
    verdict: str
    message: str
    witness: str = ""


@dataclass(frozen=True)
class Report:
    """All findings; the verdict is the worst of them."""

    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """Return refuted if any finding is, else unknown if any is, else proved."""
        verdicts = {finding.verdict for finding in self.findings}
        return next((v for v in ("refuted", "unknown") if v in verdicts), "proved")

    def to_document(self) -> dict[str, object]:
        """Return the JSON document of `kdtool verify --json`."""
        return {"verdict": self.verdict, "findings": [asdict(finding) for finding in self.findings]}


class Check(Protocol):
    """A check looks at a well-formed program and returns its findings."""

    def __call__(self, program: Program) -> list[Finding]:
        """Check `program`."""


def proved(check: str, message: str) -> Finding:
    """Return a claim that holds for every input."""
    return Finding(check, "proved", message)


def refuted(check: str, message: str, witness: str) -> Finding:
    """Return a claim that does not hold, and the case that shows it."""
    return Finding(check, "refuted", message, witness)


def unknown(check: str, message: str) -> Finding:
    """Return a claim that was neither proved nor refuted, and why."""
    return Finding(check, "unknown", message)
