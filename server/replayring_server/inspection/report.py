"""What an inspection found, as values and in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something that is not as the server left it, or that its owner should know.

    Attributes:
        where: the file or folder, below the data directory.
        what: what is the matter with it.
        means: what is lost, and what opening does about it.
        remedy: what can be done.
        harmless: whether it is no damage: the normal trace of a death, say, or a stranger's file.
    """

    where: str
    what: str
    means: str
    remedy: str
    harmless: bool = False


@dataclass
class Report:
    """The outcome of `verify`.

    Attributes:
        data_dir: what was checked.
        checked: one line for each buffer and each set of parameters: what was checked of it.
        findings: what was found, harmless or not, in the order of the checks.
    """

    data_dir: str
    checked: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        """Whether anything that was found is damage."""
        return any(not finding.harmless for finding in self.findings)

    def add(self, findings: Iterable[Finding]) -> bool:
        """Takes findings, and returns whether none of them is damage."""
        found = list(findings)
        self.findings += found
        return all(finding.harmless for finding in found)

    def as_json(self) -> dict[str, Any]:
        """Returns all of it as JSON's kinds of values."""
        return {**asdict(self), "damaged": self.damaged}

    def lines(self) -> Iterator[str]:
        """Yields the report as text."""
        for line in self.checked:
            yield f"checked   {line}"
        for finding in self.findings:
            kind = "note" if finding.harmless else "DAMAGE"
            yield ""
            yield f"{kind:9} {finding.where}: {finding.what}"
            yield f"  means   {finding.means}"
            yield f"  remedy  {finding.remedy}"
        yield ""
        count = sum(not finding.harmless for finding in self.findings)
        yield f"{self.data_dir}: " + (f"{count} damaged" if count else "no damage found")
