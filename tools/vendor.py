"""Fetch the panel's browser libraries with `npm pack`, check them, and rewrite their imports to relative ones.

Run by hand when a version in switchboard/web/panel/vendor/VENDOR.toml was changed; `--check` compares the files with it, offline.
"""

import base64
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).parent.parent / "switchboard" / "web" / "panel" / "vendor"
IMPORT = re.compile(r"""((?:from|import)\s*)(["'])([^"'.][^"']*)\2""")


def sha512(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def rewritten(source: str, modules: dict[str, str]) -> str:
    """Return *source* with every bare import pointing at our own file. Raises KeyError for one that is not vendored."""
    relative = IMPORT.sub(lambda m: f"{m[1]}{m[2]}./{modules[m[3]]}{m[2]}", source)
    return re.sub(r"\n?//# sourceMappingURL=.*\n?$", "\n", relative)


def problems(table: dict[str, Any], folder: Path = VENDOR) -> list[str]:
    """Name every file that is missing, changed, or not in the table."""
    named = {file["file"]: file["sha512"] for package in table["package"] for file in package["files"]}
    there = {path.name for path in folder.iterdir()} - {"VENDOR.toml"}
    found = [f"{name} is not named in VENDOR.toml" for name in sorted(there - named.keys())]
    for name, wanted in named.items():
        if name not in there:
            found.append(f"{name} is missing")
        elif sha512((folder / name).read_bytes()) != wanted:
            found.append(f"{name} is not the file that was vendored")
    return found


def fetch(table: dict[str, Any]) -> None:
    modules = {
        file["module"]: file["file"] for package in table["package"] for file in package["files"] if "module" in file
    }
    for package in table["package"]:
        with tempfile.TemporaryDirectory() as folder:
            spec = f"{package['name']}@{package['version']}"
            subprocess.run(["npm", "pack", "--silent", spec], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            [tarball] = Path(folder).glob("*.tgz")
            integrity = sha512(tarball.read_bytes())
            if package.get("integrity") and package["integrity"] != integrity:
                raise SystemExit(f"{spec}: npm served {integrity}, VENDOR.toml says {package['integrity']}")
            package["integrity"] = integrity
            with tarfile.open(tarball) as archive:
                for file in package["files"]:
                    member = archive.extractfile(f"package/{file['path']}")
                    if member is None:
                        raise SystemExit(f"{spec} holds no {file['path']}")
                    text = member.read().decode()
                    data = (rewritten(text, modules) if "module" in file else text).encode()
                    (VENDOR / file["file"]).write_bytes(data)
                    file["sha512"] = sha512(data)


def written(table: dict[str, Any]) -> str:
    lines = [
        "# What the panel takes from others, by tools/vendor.py. integrity is of npm's tarball, sha512 of our file."
    ]
    for package in table["package"]:
        lines += ["", "[[package]]"]
        lines += [f'{key} = "{package[key]}"' for key in ("name", "version", "licence", "integrity")]
        for file in package["files"]:
            lines += ["", "[[package.files]]"]
            lines += [f'{key} = "{file[key]}"' for key in ("path", "file", "module", "sha512") if key in file]
    return "\n".join(lines) + "\n"


def main() -> None:
    table = tomllib.loads((VENDOR / "VENDOR.toml").read_text())
    if "--check" not in sys.argv:
        fetch(table)
        (VENDOR / "VENDOR.toml").write_text(written(table))
    found = problems(table)
    if found:
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
