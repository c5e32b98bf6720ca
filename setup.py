"""The compiled half of the data plane. Everything else about the package stands in pyproject.toml.

Without a C compiler the package installs all the same and runs interpreted; `TERTULIA_REQUIRE_NATIVE=1` makes that an
error (for release builds: a wheel without the extensions must never be published).
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PLANE = "tertulia/sfu/plane"
DECISIONS = ("codecs", "header", "template", "munge", "repair", "delay", "twcc", "statistics", "intake", "outflow")
DECISIONS += ("rtcp", "upkeep", "tables", "consent")
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "infer_types": True,
    "annotation_typing": False,
}
REQUIRED = os.environ.get("TERTULIA_REQUIRE_NATIVE") == "1"


class BuildWhatWorks(build_ext):
    """A compiler that is missing or fails costs speed, not the installation."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            self._excuse(error)

    def build_extension(self, ext: Any) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            self._excuse(error)

    def copy_extensions_to_source(self) -> None:
        """In-place builds: only what was built."""
        self.extensions = [ext for ext in self.extensions if Path(self.get_ext_fullpath_built(ext)).exists()]
        super().copy_extensions_to_source()

    def get_ext_fullpath_built(self, ext: Any) -> str:
        return os.path.join(self.build_lib, self.get_ext_filename(self.get_ext_fullname(ext.name)))

    def _excuse(self, error: Exception) -> None:
        if REQUIRED:
            raise error
        print(f"tertulia: the data plane was not compiled ({error}); it will run interpreted", file=sys.stderr)


def united() -> str:
    """All decisions as one source, in `build/`: Cython calls other modules by pointer, so gcc inlines nothing."""
    parts = ["import cython\n"]
    for name in DECISIONS:
        text = Path(PLANE, f"{name}.py").read_text(encoding="utf-8")
        # behind the imports, which only the interpreted life needs
        body = text.partition("\nif not cython.compiled:\n")[2]
        parts.append(re.sub(r"\A(?:(?: .*)?\n)+", "", body))
    target = Path("build/united/decisions.py")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n\n".join(parts), encoding="utf-8")
    return str(target)


def extensions() -> list[Any]:
    """The plane's modules, translated by Cython. Linux only: elsewhere there is no sendmmsg, recvmmsg or GSO."""
    if not sys.platform.startswith("linux"):
        return []
    try:
        from Cython.Build import cythonize

        flags = [
            "-O3",
            "-fno-strict-aliasing",
            "-fwrapv",
            "-ffp-contract=off",
            *os.environ.get("TERTULIA_NATIVE_FLAGS", "").split(),
        ]
        # both modules must agree on the layout of the rows: a change rebuilds them
        layouts = sorted(str(path) for path in Path(PLANE, "compiled").glob("*.pxd"))
        modules = [
            Extension(
                "tertulia.sfu.plane.compiled.decisions",
                [united()],
                depends=[*layouts, *(f"{PLANE}/{name}.py" for name in DECISIONS)],
                extra_compile_args=flags,
            ),
            Extension(
                "tertulia.sfu.plane.native",
                [f"{PLANE}/native.pyx"],
                depends=[*layouts, f"{PLANE}/native_core.pxi"],
                extra_compile_args=flags,
                extra_link_args=["-pthread"],
            ),
        ]
        return list(cythonize(modules, compiler_directives=DIRECTIVES, build_dir="build/cython", force=True))
    except Exception as error:
        if REQUIRED:
            raise
        print(f"tertulia: the data plane cannot be translated ({error}); it will run interpreted", file=sys.stderr)
        return []


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildWhatWorks})
