"""Writes docs/losses.md, a page for each family of losses and docs/advice.md: `python docs/build.py [FOLDER]`.

The pages of losses are their docstrings, that of advice is its table of rules. A loss is a public class whose name ends
in `Loss`; its family is the module that defines it. A new loss, or a new family, therefore needs no change here.
"""

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import delineate.advice as advice
import delineate.losses as public
from delineate.losses import counts, loss, voxel

DOCS = Path(__file__).parent
PART_OF = {"lovasz": "region", "hausdorff": "boundary"}
"""Modules that belong to the family of another one."""
COMMON = {
    "Loss": "every-loss",
    "delineate.losses.loss": "every-loss",
    "delineate.losses.voxel": "losses-by-voxel",
    "delineate.losses.counts": "losses-by-region",
}
"""What docstrings refer to, by its heading in losses.md."""
OBJECTS = {
    "found": "the found object",
    "missed": "the missed object",
    "false": "the false positive",
    "thin": "the thin line",
    "rest": "the rest of the background",
}
"""Parts of the example in words. Its pictures and shares come from gradients.py."""
EXAMPLE = (
    "The pictures show one example of two classes: an object that is found, one that is missed, a false positive, and "
    "a thin line of which half is found. Red is where the loss, with its default arguments, asks for more foreground, "
    "blue where it asks for less: minus the gradient of the foreground logit. (Dice is inside of losses that take "
    "others.) Its scale is beside the colour bar; compare patterns between losses, not scales. The bars divide the "
    "sum of its absolute values among the objects, each with the voxels up to three away from it. Another example "
    "would give other shares."
)

ASK = """```
delineate inspect DATA                  # the figures of the data, and the advice
delineate compare DATA --losses auto    # trains the baseline and the strongest of the others
```"""
"""How to get advice, on its page."""


def families() -> dict[str, list[type]]:
    """Public losses by family, in the order of the public list."""
    found: dict[str, list[type]] = {}
    for name in public.__all__:
        if name.endswith("Loss") and name != "Loss":
            cls = getattr(public, name)
            module = cls.__module__.rpartition(".")[2]
            found.setdefault(PART_OF.get(module, module), []).append(cls)
    return found


def wrappers() -> list[type]:
    """Public losses that take losses."""
    classes = (getattr(public, name) for name in public.__all__ if not name.endswith("Loss"))
    return [cls for cls in classes if inspect.isclass(cls) and cls is not public.Sum]


def read(doc: str) -> dict[str, str]:
    """The parts of a docstring: "summary", "formula", and its fields by name."""
    parts = {"summary": [], "formula": []}
    current = "summary"
    for line in inspect.cleandoc(doc).splitlines():
        field = re.match(r"([A-Z][a-z]+(?: classes| for)?):(?: |$)", line)
        if field:
            current, line = field[1], line[field.end() :]
        elif line.startswith(">>>"):
            current = "Example"
        elif current == "summary" and line.startswith("    "):
            current = "formula"
        parts.setdefault(current, []).append(line)
    return {name: inspect.cleandoc("\n" + "\n".join(lines)).strip("\n") for name, lines in parts.items()}


def one_line(text: str) -> str:
    return " ".join(text.split())


def blocks(text: str) -> str:
    """Running text of a docstring as markdown: paragraphs, indented formulae, examples."""
    found = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        indented = block.startswith("    ")
        found.append(code(inspect.cleandoc("\n" + block)) if indented or block.startswith(">>>") else one_line(block))
    return "\n\n".join(found)


def code(text: str) -> str:
    return f"```{'python' if text.startswith('>>>') else 'text'}\n{text}\n```"


def linked(text: str, base: str) -> str:
    """Names of losses, of what they have in common and of papers as links; `base` leads to the folder docs."""
    pages = {
        cls.__name__: f"losses/{family}.md#{cls.__name__.lower()}"
        for family, all_of in families().items()
        for cls in all_of
    }
    pages |= {name: f"losses.md#{heading}" for name, heading in COMMON.items()}
    pages |= {f"delineate.losses.{family}": f"losses/{family}.md" for family in families()}

    def link(match: re.Match) -> str:
        return f"[{match[0]}]({base}{pages[match[1]]})" if match[1] in pages else match[0]

    pieces = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    prose = [re.sub(r"`([\w.]+)`", link, piece) for piece in pieces[::2]]
    pieces[::2] = [re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", piece) for piece in prose]
    return "".join(pieces)


def short_formula(formula: str) -> str:
    """The first statement of a formula block, with the lines that continue it, in one line."""
    first, *others = formula.splitlines()
    lines = [first]
    for line in others:
        if not line.startswith(" "):
            break
        lines.append(line.strip())
    text = " ".join(lines).replace("`", "")
    return one_line(re.sub(r"(?<=[^\s:,=]) {3,}", "; ", text))


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def argument_list(cls: type, text: str) -> str:
    """The entries of `Args:` as a list, with the default of each argument they name."""
    defaults = {name: parameter.default for name, parameter in loss.arguments(cls).items()}
    lines = []
    for entry in re.split(r"\n(?=\S)", text):
        names, _, meaning = one_line(entry).partition(": ")
        if all(name in defaults for name in names.split(", ")):
            names = ", ".join(f"`{name}={python_text(defaults[name])}`" for name in names.split(", "))
            lines.append(f"- {names}: {meaning}")
        elif names == "common":
            lines.append(f"- the others: {meaning}")
        else:
            lines.append(f"- {one_line(entry)}")
    return "\n".join(lines)


def python_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def in_words(shares: dict[str, float]) -> str:
    """Where the gradient goes, largest share first."""
    ordered = sorted(shares, key=lambda name: -shares[name])
    return ", ".join(f"{100 * shares[name]:.0f} % on {OBJECTS[name]}" for name in ordered)


def picture(cls: type, shares: dict[str, float]) -> str:
    text = f"Target, prediction and gradient of {cls.__name__}: {in_words(shares)}"
    return f"![{text}](../gradients/{cls.__name__}.png)"


def section(cls: type, shares: dict[str, float]) -> str:
    """What a family page says about one loss."""
    parts = read(cls.__doc__ or "")
    text = [f"## {cls.__name__}", one_line(parts["summary"]), code(parts["formula"]), picture(cls, shares)]
    text += [bold(name, parts) for name in ("Use for", "Not for")]
    text += ["**Arguments:**", argument_list(cls, parts["Args"])]
    text += [bold(name, parts) for name in ("Shape", "Range", "Absent classes")]
    text += [code(parts["Example"]), *(bold(name, parts) for name in ("Notes", "Reference"))]
    return "\n\n".join(text)


def bold(name: str, parts: dict[str, str]) -> str:
    return f"**{name}:** {one_line(parts[name])}"


def family_page(family: str, gradients: dict[str, dict]) -> str:
    module = importlib.import_module(f"delineate.losses.{family}")
    text = [f"# Losses: {family}", "[All losses](../losses.md)", blocks(module.__doc__ or ""), EXAMPLE]
    text += [section(cls, gradients[cls.__name__]["shares"]) for cls in families()[family]]
    return linked("\n\n".join(text), "../") + "\n"


def row(cls: type, family: str) -> str:
    parts = read(cls.__doc__ or "")
    name = f"[{cls.name()}](losses/{family}.md#{cls.__name__.lower()})"
    texts = [one_line(parts[field]) for field in ("Use for", "Not for", "Reference")]
    return "| " + " | ".join(cell(text) for text in (name, f"`{short_formula(parts['formula'])}`", *texts)) + " |"


def table() -> str:
    lines = ["| loss | formula | use for | not for | reference |", "|---|---|---|---|---|"]
    for family, losses in families().items():
        lines += [f"| **[{family}](losses/{family}.md)** | | | | |", *(row(cls, family) for cls in losses)]
    return "\n".join(lines)


def common_arguments(cls: type) -> str:
    return argument_list(cls, read(cls.__doc__ or "")["Args"])


def overview(gradients: dict[str, dict]) -> str:
    """The picture of all shares, with what leads each column in words."""
    leaders = []
    for name, words in OBJECTS.items():
        leader = max(gradients, key=lambda cls: gradients[cls]["shares"][name])
        leaders.append(f"{100 * gradients[leader]['shares'][name]:.0f} % on {words} ({leader})")
    return f"![Share of the gradient of each loss on each object. The largest: {', '.join(leaders)}](gradients.png)"


def table_page(gradients: dict[str, dict]) -> str:
    text = ["# Losses", "Generated from the docstrings by `make docs`.", table()]
    text += ["## What each loss pays attention to", EXAMPLE, overview(gradients)]
    text += [
        "## Wrappers",
        "\n".join(f"- `{cls.__name__}`: {one_line(read(cls.__doc__ or '')['summary'])}" for cls in wrappers()),
    ]
    text += ["## Every loss", blocks(loss.__doc__ or ""), common_arguments(public.Loss)]
    text += [bold("Shape", read(public.Loss.__doc__ or ""))]
    text += ["## Losses by voxel", blocks(voxel.__doc__ or ""), "## Losses by region", blocks(counts.__doc__ or "")]
    text += [common_arguments(counts.PoolLoss) + "\n" + common_arguments(counts.RatioLoss)]
    return linked("\n\n".join(text), "") + "\n"


def rule_row(rule: advice.Rule) -> str:
    measure = one_line(rule.measure.__doc__ or "").removesuffix(".")
    measure = measure[0].lower() + measure[1:]
    texts = (f"[{rule.name}](#{rule.name.replace(' ', '-')})", measure, f"{rule.side} {rule.threshold}")
    return "| " + " | ".join(map(cell, (*texts, shown_loss(rule), rule.evidence))) + " |"


def shown_loss(rule: advice.Rule) -> str:
    return f"`{rule.loss}`" if isinstance(rule.loss, str) else one_line(rule.loss.__doc__ or "").removesuffix(".")


def rule_section(rule: advice.Rule) -> str:
    source = re.sub(r"docs/([\w/]+\.md)", r"[\1](\1)", rule.source)
    fields = {"Try": shown_loss(rule), "Why": rule.why, "When it fails": rule.fails, "Source": source}
    fields["Threshold"] = f"{rule.side} {rule.threshold}, by {rule.basis}"
    return f"### {rule.name}\n\n" + "\n\n".join(f"**{name}:** {text}" for name, text in fields.items())


def advice_page() -> str:
    """The table of rules, what each says, and what none can know."""
    table = ["| rule | number | fires | loss | evidence |", "|---|---|---|---|---|", *map(rule_row, advice.RULES)]
    weights = ", ".join(f"{name} {weight}" for name, weight in advice.EVIDENCE.items())
    text = ["# Which loss for my data?", "Generated from `delineate/advice` by `make docs`.", ASK]
    text += [blocks(advice.__doc__ or ""), f"Evidence weighs: {weights}.", "## The rules"]
    text += ["\n".join(table), "## What each rule says"]
    text += [rule_section(rule) for rule in advice.RULES]
    text += ["## What the advice cannot know", "\n".join(f"- {unknown}" for unknown in advice.UNKNOWN)]
    return linked("\n\n".join(text), "") + "\n"


def pages() -> dict[str, str]:
    """The text of each page by its path."""
    gradients = json.loads((DOCS / "gradients.json").read_text())
    by_family = {f"losses/{family}.md": family_page(family, gradients) for family in families()}
    return {"advice.md": advice_page(), "losses.md": table_page(gradients), **by_family}


def main(folder: Path = DOCS) -> None:
    for name, text in pages().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
