"""llama-server and llama-batched-bench from the source that the pinned llama-cpp-python carries.

    nice -n 15 python benchmarks/peers/build_llama_server.py /tmp/llama-server-build --jobs 1

The same llama.cpp as okno's engine, compiled for this machine as okno's is (Release, GGML_NATIVE,
the settings in pyproject.toml), so that a comparison differs in the server alone. The source comes
from the package index (about 70 MB), is unpacked in FOLDER/source and built in FOLDER; the programs
are then FOLDER/bin/llama-server and FOLDER/bin/llama-batched-bench. A second call goes on where it
was. Needs cmake and a C++ compiler; 10 to 40 minutes on two cores.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import version
from pathlib import Path

PACKAGE = "llama-cpp-python"
TARGETS = ("llama-server", "llama-batched-bench")
OFF = (
    "LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI",
    "LLAMA_BUILD_APP", "LLAMA_USE_PREBUILT_UI",
)  # fmt: skip
ON = ("LLAMA_BUILD_TOOLS", "LLAMA_BUILD_SERVER", "LLAMA_BUILD_COMMON", "GGML_NATIVE")
OKNO = Path(__file__).resolve().parents[2]


def source(folder: Path) -> Path:
    """The unpacked llama.cpp of the installed version; fetched when it is not there yet."""
    name = f"llama_cpp_python-{version(PACKAGE)}"
    unpacked = folder / "source" / name
    if not unpacked.is_dir():
        archive = fetched(folder / "source")
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "source", filter="data")
    llama = unpacked / "vendor" / "llama.cpp"
    if not (llama / "CMakeLists.txt").is_file():
        sys.exit(f"error: {llama} holds no llama.cpp; the package has changed.")
    return llama


def fetched(folder: Path) -> Path:
    """The source archive of the installed version."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode != 0:
        found = shutil.which("pip")
        pip = [found] if found else sys.exit("error: pip is needed to fetch the source.")
    subprocess.run(
        [*pip, "download", "--no-binary", PACKAGE, "--no-deps",
         "--dest", str(folder), f"{PACKAGE}=={version(PACKAGE)}"],
        check=True,
    )  # fmt: skip
    return next(folder.glob("llama_cpp_python-*.tar.gz"))


def flags() -> list[str]:
    """cmake's settings."""
    return [
        "-DCMAKE_BUILD_TYPE=Release",
        *(f"-D{name}=OFF" for name in OFF),
        *(f"-D{name}=ON" for name in ON),
        *(f"-D{name}={value}" for name, value in engine_settings().items()),
    ]


def engine_settings() -> dict[str, str]:
    """cmake's settings that okno's own engine is compiled with: pyproject.toml has them."""
    uv = tomllib.loads((OKNO / "pyproject.toml").read_text())["tool"]["uv"]
    settings: dict[str, str] = uv["config-settings-package"][PACKAGE]
    return {key.removeprefix("cmake.define."): value for key, value in settings.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="outside the repository")
    parser.add_argument("--jobs", type=int, default=1, help="compilers at once")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if OKNO in (folder, *folder.parents):
        sys.exit(f"error: {folder} is inside the repository; choose a folder outside.")
    subprocess.run(["cmake", "-S", str(source(folder)), "-B", str(folder), *flags()], check=True)
    subprocess.run(
        ["cmake", "--build", str(folder), "--parallel", str(options.jobs), "--target", *TARGETS],
        check=True,
    )
    for target in TARGETS:
        print(folder / "bin" / target)


if __name__ == "__main__":
    main()
