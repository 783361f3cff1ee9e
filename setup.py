# The compiled half of the build: one extension for every edge/_fast/*.pyx, and two switches.
#   EDGE_DEBUG=1                        assertions and allocation counters in, optimiser mostly out
#   EDGE_SANITIZE=address,undefined     the same, instrumented
# Everything else stands in pyproject.toml. Nothing here may need a header package beyond libc's and Python's.
import os
import shutil
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORES = len(os.sched_getaffinity(0))
DEBUG = os.environ.get("EDGE_DEBUG", "") not in ("", "0")
SANITIZE = os.environ.get("EDGE_SANITIZE", "")

# Cython's generated C trips -Wunused-function by nature; every other warning of -Wall is ours to mend.
COMPILE = ["-fno-strict-aliasing", "-Wall", "-Wno-unused-function"]
LINK: list[str] = []
SWITCHES = Path("build/switches")  # what the modules beside the sources were built with
if SANITIZE:
    COMPILE += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer"]
    LINK += [f"-fsanitize={SANITIZE}"]
if DEBUG or SANITIZE:
    COMPILE += ["-O1", "-g", "-UNDEBUG", "-DEDGE_DEBUG=1"]
else:
    COMPILE += ["-O2", "-g0"]


class BuildFast(build_ext):
    """Beside the sources it compiles what is older than its C file, or was built with other switches, and no more;
    also in the editable install, where setuptools starts from an empty folder and would compile all of it again."""

    def build_extension(self, ext: Extension) -> None:
        built, wanted = Path(self.get_ext_filename(ext.name)), Path(self.get_ext_fullpath(ext.name))
        newest = max(Path(path).stat().st_mtime for path in [*ext.sources, *ext.depends])
        if self.beside and not self.force and built.exists() and built.stat().st_mtime > newest:
            wanted.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(built, wanted)
        else:
            super().build_extension(ext)

    def run(self) -> None:
        self.beside = bool(self.inplace or self.editable_mode)  # setuptools clears `inplace` while it builds
        self.force = self.force or not SWITCHES.exists() or SWITCHES.read_text() != " ".join(COMPILE)
        super().run()
        if self.beside:
            SWITCHES.parent.mkdir(exist_ok=True)
            SWITCHES.write_text(" ".join(COMPILE))


def extension(source: Path) -> Extension:
    name = ".".join(source.with_suffix("").parts)
    return Extension(name, [str(source)], extra_compile_args=COMPILE, extra_link_args=LINK, depends=["setup.py"])


sources = sorted(Path("edge/_fast").glob("*.pyx"))
setup(
    ext_modules=cythonize([extension(path) for path in sources], nthreads=CORES, language_level=3) if sources else [],
    cmdclass={"build_ext": BuildFast},
    options={"build_ext": {"parallel": CORES}},
)
