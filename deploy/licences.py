"""Prints THIRD_PARTY.md from the metadata of the packages that are installed and from the pins of the assets.

Not legal advice and no scan of sources: each package's own word about itself is quoted. What the lock names
for other versions of Python only is named too, without a word of its own, so that nothing that people may
receive is left out.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

HEAD = """# What this project is built on

Everything below is free software; thank you to those who make it. The Python packages are installed from
their own distributions, unchanged; the licence texts come with them. The parts of the pages come from their
npm packages, unchanged (their texts lie beside them, in `licences/`). System packages (TigerVNC, bubblewrap,
openbox and others) are installed by the system, with their texts under `/usr/share/doc`. This list is
written by `deploy/licences`.
"""
# Words that packages use in place of an SPDX expression.
SPDX = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "Apache License, Version 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "BSD": "BSD",
    "MIT": "MIT",
    "ISC License (ISCL)": "ISC",
    "ISC License": "ISC",
    "Apache License 2.0 ": "Apache-2.0",
    "The MIT License": "MIT",
    "Apache-2.0 OR MIT": "Apache-2.0 OR MIT",
    "Dual License": "BSD-3-Clause OR Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "new BSD License": "BSD-3-Clause",
}
# Packages whose metadata says nothing that can be read by machine, or that are not installed on the Python
# that writes the list.
KNOWN = {"async-timeout": "Apache-2.0", "backports-zstd": "BSD-3-Clause", "colorama": "BSD-3-Clause"}


def main() -> None:
    """Print the whole page."""
    tree = Path(sys.argv[1])
    print(HEAD)
    print("## Python packages\n\n| package | version | licence |\n|---|---|---|")
    lock = (tree / "requirements.lock").read_text(encoding="utf-8")
    for name, version in sorted(set(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", lock, re.MULTILINE))):
        print(f"| {name} | {version} | {licence(name)} |")
    print("\n## Parts of the pages\n\n| package | version | licence |\n|---|---|---|")
    for line in (tree / "deploy/assets/packages.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version, _, words = line.split()
            print(f"| {name} | {version} | {words} |")
    print("\nnoVNC holds pako 1.0 (MIT AND Zlib) under `vendor/`.")


def licence(name: str) -> str:
    """Return what a package says about its licence, as an SPDX expression where it can be read as one."""
    try:
        told = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return KNOWN.get(name, "?")
    if expression := told.get("License-Expression"):
        return str(expression)
    classified = [
        entry.rpartition(" :: ")[2]
        for entry in told.get_all("Classifier") or []
        if entry.startswith("License ::")
    ]
    plain = str(told.get("License") or "").strip()
    words = plain if plain and "\n" not in plain and len(plain) < 40 else " OR ".join(classified)
    return SPDX.get(words, words) or KNOWN.get(name, "?")


if __name__ == "__main__":
    main()
