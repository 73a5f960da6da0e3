"""Folds the output of `perf script` and draws it as an SVG flame graph.

Owner: scripts/profile. Pure functions over text. Invariants: widths are shares of all samples; frames of the same
stack are merged; a frame narrower than MIN_PERCENT is left out. It must not run perf or look at files.
"""
import html
import re

WIDTH, ROW, MIN_PERCENT, FONT = 1200, 17, 0.15, 11
HASH = re.compile(r"::h[0-9a-f]{16}$")


def fold(text):
    """{(outermost, ..., innermost): samples} from `perf script -F comm,ip,sym`."""
    stacks, frames, comm = {}, [], None

    def close():
        if comm is not None:
            stack = (comm,) + tuple(reversed(frames))
            stacks[stack] = stacks.get(stack, 0) + 1

    for line in text.splitlines():
        if not line.strip():
            if comm is not None:
                close()
            comm, frames = None, []
        elif not line[0].isspace():
            comm, frames = line.split()[0].rstrip(":"), []
        else:
            name = line.strip().split(None, 1)
            frames.append(tidy(name[1] if len(name) > 1 else "[unknown]"))
    close()
    return stacks


def tidy(name):
    """A symbol without hash, generic arguments, offsets and module."""
    name = re.sub(r"\+0x[0-9a-f]+", "", name)
    name = re.sub(r" \([^()]*\)$", "", name)
    name = HASH.sub("", name)
    for _ in range(6):
        name = re.sub(r"<([^<>]*)>", lambda found: found.group(1).split(" as ")[0] if " as " in found.group(1) else "", name)
    return name.replace("::{{closure}}", "{}").strip(":") or "[unknown]"


def tree(stacks):
    root = {"name": "all", "count": 0, "children": {}}
    for stack, count in stacks.items():
        root["count"] += count
        node = root
        for frame in stack:
            node = node["children"].setdefault(frame, {"name": frame, "count": 0, "children": {}})
            node["count"] += count
    return root


def depth_of(node, total):
    kept = [child for child in node["children"].values() if 100 * child["count"] / total >= MIN_PERCENT]
    return 1 + max((depth_of(child, total) for child in kept), default=0)


def colour(name):
    if name.startswith("ringlog") or "ringlog::" in name:
        base = (230, 120, 60)
    elif "glommio" in name or "iou" in name:
        base = (215, 170, 60)
    elif "::" in name:
        base = (200, 150, 120)
    else:
        base = (110, 150, 200)
    shade = sum(map(ord, name)) % 30 - 15
    return "rgb(%d,%d,%d)" % tuple(min(255, max(0, part + shade)) for part in base)


def draw(stacks, title, note):
    root = tree(stacks)
    total = max(root["count"], 1)
    height = (depth_of(root, total) + 3) * ROW
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="monospace" font-size="%d">' % (
        WIDTH, height, FONT), '<rect width="100%" height="100%" fill="#fffdf8"/>',
        '<text x="8" y="14" font-size="13">%s</text>' % html.escape(title),
        '<text x="8" y="30" fill="#555">%s</text>' % html.escape(note)]

    def place(node, left, level):
        width = WIDTH * node["count"] / total
        top = height - (level + 1) * ROW
        label = "%s (%d samples, %.1f %%)" % (node["name"], node["count"], 100 * node["count"] / total)
        room = int(width / (FONT * 0.62)) - 1
        text = node["name"] if len(node["name"]) <= room else node["name"][:max(room - 1, 0)] + "…"
        parts.append('<g><title>%s</title><rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s" stroke="#fffdf8" '
                     'stroke-width="0.5"/>%s</g>' % (
                         html.escape(label), left, top, width, ROW - 1, colour(node["name"]),
                         '<text x="%.1f" y="%d">%s</text>' % (left + 3, top + 12, html.escape(text)) if room >= 3 else ""))
        for child in sorted(node["children"].values(), key=lambda child: child["name"]):
            if 100 * child["count"] / total >= MIN_PERCENT:
                place(child, left, level + 1)
            left += WIDTH * child["count"] / total

    place(root, 0.0, 0)
    return "\n".join(parts + ["</svg>"]) + "\n"


def top(stacks, count=12):
    """Innermost functions by their own samples, in percent."""
    total = max(sum(stacks.values()), 1)
    own = {}
    for stack, samples in stacks.items():
        own[stack[-1]] = own.get(stack[-1], 0) + samples
    ranked = sorted(own.items(), key=lambda item: -item[1])[:count]
    return [(name, 100 * samples / total) for name, samples in ranked]
