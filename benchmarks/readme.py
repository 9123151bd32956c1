"""Writes the README's figures from the committed results: `python benchmarks/readme.py`, or `--check` to compare only.

Between `<!-- results: PART -->` and `<!-- end of results -->` everything is generated, from the first of
`benchmarks/results/*/results.json` that has the part; "accuracy" is of the layers'. To measure again: `make results`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from fastrnn.bench import report
from fastrnn.bench.command import THOROUGH
from fastrnn.bench.peers import contenders
from fastrnn.bench.results import Results
from fastrnn.io.atomic import replacing

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SECTION = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def find(part: str) -> tuple[Path, Results]:
    """The results that have the part, and their folder."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*/results.json")):
        results = Results.read(path)
        if results.part(part):
            return path.parent, results
    raise FileNotFoundError(f"no results in benchmarks/results have the part {part!r}")


def section(part: str) -> str:
    """A table, where and how it was measured, and the picture if there is one."""
    source = "layers" if part == "accuracy" else part
    try:
        folder, results = find(source)
    except FileNotFoundError:
        return f"Not measured yet: `fastrnn bench {source} --out benchmarks/results/{source}`.\n"
    table = report.short(results, part)
    known = contenders()
    head = [known[name].title if name in known else name for name in table.head]
    lines = report.about(results)
    if results.about["rounds"] < THOROUGH["rounds"]:
        lines.insert(0, "**A quick look, which stands here until it is measured thoroughly.**")
    parts = [f"{table.title}.", report.markdown(table._replace(head=head))]
    if part != source:
        return "\n\n".join([*parts, f"Measured with the {source}, above."]) + "\n"
    parts.append("\n".join(f"- {line}" for line in lines))
    for picture in sorted(folder.glob("*.png")):
        parts.append(f"![{picture.stem}]({picture.relative_to(ROOT)})")
    return "\n\n".join(parts) + "\n"


def generated(text: str) -> str:
    """The README with all sections as the results have them."""
    return SECTION.sub(lambda found: f"{found[1]}{section(found[2])}{found[3]}", text)


def main() -> int:
    before = README.read_text(encoding="utf-8")
    after = generated(before)
    if "--check" in sys.argv[1:]:
        return int(before != after)
    with replacing(README) as temporary:
        temporary.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
