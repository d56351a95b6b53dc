"""Where figures come from: the commit, the machine and the day, which every report in JSON says under `origin`."""
import datetime
import os
import platform
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))


def origin(tool):
    """What a report has to say of itself."""
    return {"tool": tool, "commit": commit(), "machine": machine(), "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat()}


def commit():
    """The commit of this tree, with a plus where it was changed since; None where there is no git."""
    def git(*words):
        return subprocess.run(["git", "-C", HERE, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine():
    """The processor, how many, the memory and the kernel."""
    mebibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return f"{processor()}, {os.cpu_count()} CPUs, {mebibytes / 1024:.0f} GiB, Linux {platform.release()}"


def processor():
    """The model's name where the kernel knows it, else the architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as said:
            names = [line.partition(":")[2].strip() for line in said if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names and names[0] != "unknown" else platform.machine()
