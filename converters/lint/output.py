"""Findings as text, as JSON, as SARIF 2.1.0, as annotations of GitHub Actions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from caffeio.converters.lint.model import SEVERITIES, Finding, Rule
from caffeio.converters.report.model import Cell, Report, Tone, count
from caffeio.visible import visible_lines

_TONES: dict[str, Tone] = {"error": "bad", "warning": "warn", "info": "dim"}
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_GITHUB = {"error": "error", "warning": "warning", "info": "notice"}


def report(found: Sequence[Finding], files: int) -> Report:
    """One line a finding, and a count."""
    out = Report("")
    for finding in found:
        tone = _TONES[finding.severity]
        parts: list[str | Cell] = [
            f"{finding.where}: ",
            Cell(f"{finding.code} ", tone),
            finding.message,
        ]
        if finding.fix is not None:
            parts.append(Cell(f" [--fix: {finding.fix.what}]", "dim"))
        out.add_paragraph(*parts)
    counts = Counter(finding.severity for finding in found)
    words = [count(counts[s], s) for s in SEVERITIES if counts[s] and s != "info"]
    if counts["info"]:
        words.append(f"{counts['info']} of interest")
    total = count(files, "file")
    out.add_paragraph(f"{', '.join(words)} in {total}" if words else f"{total}: nothing found")
    return out


def as_data(found: Sequence[Finding], rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Findings as plain data."""
    names = {rule.code: rule.name for rule in rules}
    return [
        {
            "code": f.code,
            "rule": names.get(f.code, ""),
            "severity": f.severity,
            "message": f.message,
            "file": f.path,
            "line": f.line or None,
            "column": f.column or None,
            "fix": f.fix.what if f.fix else None,
        }
        for f in found
    ]


def sarif(found: Sequence[Finding], rules: Sequence[Rule], version: str) -> dict[str, Any]:
    """A SARIF 2.1.0 log (OASIS, 2020) with one run."""
    order = {rule.code: i for i, rule in enumerate(rules)}
    driver = {
        "name": "caffeio",
        "semanticVersion": version,
        "rules": [
            {
                "id": rule.code,
                "name": rule.name,
                "shortDescription": {"text": rule.summary},
                "fullDescription": {"text": rule.explanation},
                "defaultConfiguration": {"level": _LEVELS[rule.severity]},
            }
            for rule in rules
        ],
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [_result(f, order) for f in found]}],
    }


def _result(finding: Finding, order: dict[str, int]) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding.path)}}
    if finding.line:
        place["region"] = {"startLine": finding.line, "startColumn": finding.column}
    return {
        "ruleId": finding.code,
        "ruleIndex": order[finding.code],
        "level": _LEVELS[finding.severity],
        "message": {"text": finding.message},
        "locations": [{"physicalLocation": place}],
    }


def _uri(path: str) -> str:
    """A path as SARIF wants it: a relative reference, or file:// for an absolute one."""
    quoted = quote(os.fsencode(path.replace(os.sep, "/")), safe="/")
    return f"file://{quoted}" if quoted.startswith("/") else quoted


def github(finding: Finding) -> str:
    """A workflow command that annotates the line."""
    place = f"file={_escaped(finding.path, ',:')}"
    if finding.line:
        place += f",line={finding.line},col={finding.column}"
    level, message = _GITHUB[finding.severity], _escaped(finding.message)
    return f"::{level} {place},title={finding.code}::{message}"


def _escaped(text: str, more: str = "") -> str:
    text = visible_lines(text)
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
