"""File systems of their own for data directories, so that one can fill up or die under a running server.

Needs root on Linux with loop devices. A dead disk is an ext4 told to shut down: from then on every
read and write of it answers EIO, as with a drive that fell off the bus.
"""
import fcntl
import os
import struct
import subprocess

import pytest

_EXT4_SHUTDOWN = 0x8004587D
_NO_FLUSH = 2


class Volume:
    """An ext4 in a file, mounted on a directory."""

    def __init__(self, place, name, mebibytes):
        self.image, self.directory = str(place / f"{name}.img"), str(place / name)
        self.mebibytes = mebibytes
        os.makedirs(self.directory, exist_ok=True)
        self.mounted = False

    def make(self):
        """Makes an empty file system and mounts it."""
        with open(self.image, "wb") as image:
            image.truncate(self.mebibytes << 20)
        run("mkfs.ext4", "-q", "-m", "0", self.image)
        run("mount", "-o", "loop", self.image, self.directory)
        self.mounted = True
        # The data directory is below the mount point, so that lost+found is not in it.
        os.makedirs(self.data, exist_ok=True)
        return self

    @property
    def data(self):
        """The data directory."""
        return os.path.join(self.directory, "data")

    def die(self):
        """Every access answers EIO from now on."""
        handle = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _EXT4_SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(handle)

    def free_bytes(self):
        """Bytes the file system has left."""
        state = os.statvfs(self.directory)
        return state.f_bavail * state.f_frsize

    def remove(self):
        """Unmounts and deletes it."""
        if self.mounted:
            subprocess.run(["umount", "-l", self.directory], check=False, capture_output=True)
            self.mounted = False
        if os.path.exists(self.image):
            os.remove(self.image)

    def replace(self):
        """An empty disk in the place of this one."""
        self.remove()
        return self.make()


def run(*command):
    """A system command that has to work."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def volumes(place, count, mebibytes):
    """Fresh volumes, or a skip that says why not."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount file systems that can fail")
    made = []
    try:
        for number in range(count):
            made.append(Volume(place, f"disk{number}", mebibytes))
            made[-1].make()
    except OSError as error:
        for volume in made:
            volume.remove()
        pytest.skip(f"this machine mounts no loop devices: {error}")
    return made
