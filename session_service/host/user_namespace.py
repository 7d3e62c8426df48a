"""Whose world a process lives in: the machine's own numbers of users, or those of somebody's container.

Not a mark of a desktop. A uid as /proc shows it says little about a process in a user namespace: a container
of a plain user borrows numbers from /etc/subuid, and one of them may be the number of a desktop of ours.
What says more is who made the outermost namespace below ours: a sandbox of ours is made by the desktop's own
user.

Source: ioctl_ns(2), user_namespaces(7).
"""

import fcntl
import os
import struct
from typing import Final

NS_GET_PARENT: Final = 0xB702
NS_GET_OWNER_UID: Final = 0xB704
DEPTH_MAX: Final = 33
"""The kernel nests at most 32."""


def made_by(pid: int, uid: int) -> bool:
    """Say whether a process lives in our user namespace, or in one that was made below it by this user.

    One that cannot be looked at for want of rights counts as made by them; one that has ended does not.
    """
    try:
        inner = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return True
    except OSError:
        return False
    own = os.stat("/proc/self/ns/user")
    try:
        for _ in range(DEPTH_MAX):
            if os.path.samestat(os.fstat(inner), own):
                return True
            outer = _parent(inner)
            if outer is None:
                return False  # beside or above ours
            if os.path.samestat(os.fstat(outer), own):
                made = _owner(inner)
                os.close(outer)
                return made == uid
            os.close(inner)
            inner = outer
        return False
    finally:
        os.close(inner)


def _parent(descriptor: int) -> int | None:
    try:
        return fcntl.ioctl(descriptor, NS_GET_PARENT)
    except OSError:
        return None


def _owner(descriptor: int) -> int:
    answer = fcntl.ioctl(descriptor, NS_GET_OWNER_UID, bytes(4))
    owner: int = struct.unpack("I", answer)[0]
    return owner
