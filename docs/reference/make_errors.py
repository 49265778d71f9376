"""Write the examples of errors.md beside this file from errors.yaml: `python docs/reference/make_errors.py`."""

from __future__ import annotations

from pathlib import Path

import yaml

PAGE = Path(__file__).parent / "errors.md"
CASES = Path(__file__).parent / "errors.yaml"
BEGIN, END = "<!-- errors:begin -->\n", "<!-- errors:end -->\n"
SHOWN = {
    "{root}": "/home/me",
    "{hub}": "https://huggingface.co",
    "{host}": "127.0.0.1:8080",
    "{bytes}": "...",
    "{web}": "https://files.example.com",
    "{folder}": "files.example.com",
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """Return the text of errors.md with its examples made anew."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + examples() + END + rest.partition(END)[2]


def examples() -> str:
    """Return each case with what is printed, under the title of its group."""
    lines = []
    for group in yaml.safe_load(CASES.read_text()):
        lines += ["", f"### {group['group']}", ""]
        for case in group["cases"]:
            text = case["output"]
            for name, shown in SHOWN.items():
                text = text.replace(name, shown)
            lines += [f"{case['title'][0].upper()}{case['title'][1:]}, exit {case['exit']}:", ""]
            lines += ["```text", *text.rstrip("\n").split("\n"), "```", ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
