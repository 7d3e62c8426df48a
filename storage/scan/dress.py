"""Give a restored entry its owner, attributes, mode and times, through a descriptor and in that order.

The order matters: a change of owner takes setuid and capabilities away, an ACL changes the mode, and each
of them is allowed only while the mode still lets us. What may not or cannot be put back is left off and
named; a restore never fails for an attribute. Who may own what, and which rights come back, is the policy's
decision.
"""

import errno
import fcntl
import os
import stat
import struct

from storage.scan import acl
from storage.scan.attributes import FLAG_APPEND, FLAG_IMMUTABLE, FLAG_NOCOW, FLAG_NODUMP, GET_FLAGS
from storage.scan.entry import NO_ATTRIBUTES, RestoreFacts, RestorePolicy

SET_FLAGS = 0x40086602
"""FS_IOC_SETFLAGS on 64-bit Linux."""

PLAIN_SECONDS = (-(1 << 31), 1 << 31)
"""Times that every file system keeps; others are looked at again after they were set."""

_SECOND_NS = 1_000_000_000
_SPECIAL_BITS = 0o7000
_PRIVILEGED = (b"security.", b"trusted.")


class Wardrobe:
    """The rules of one restore, applied to one entry after another."""

    def __init__(self, policy: RestorePolicy) -> None:
        as_root = os.geteuid() == 0
        self._policy = policy
        self._owner = policy.owner if policy.owner is not None else (os.geteuid(), os.getegid())
        self._numbers = policy.numbered_owners and as_root
        self._as_root = as_root

    def is_plain(self, facts: RestoreFacts) -> bool:
        """Return whether a file needs an owner, a mode and a time and nothing that could be refused."""
        return (
            facts.attributes is NO_ATTRIBUTES
            and facts.uid is None
            and facts.gid is None
            and facts.extents is None
            and not facts.mode & _SPECIAL_BITS
            and PLAIN_SECONDS[0] <= facts.mtime_s < PLAIN_SECONDS[1]
        )

    def dress_plain(self, fd: int, facts: RestoreFacts) -> os.stat_result:
        """Dress a plain file that was made a moment ago; return how it looked before. Calls that would change
        nothing are left out: its mode may be right already, as the umask and its folder let it.
        """
        found = os.fstat(fd)
        if (found.st_uid, found.st_gid) != self._owner:
            os.fchown(fd, *self._owner)
        if found.st_mode != stat.S_IFREG | facts.mode:
            os.fchmod(fd, facts.mode)
        at_ns = facts.mtime_s * _SECOND_NS + facts.mtime_ns
        os.utime(fd, ns=(at_ns, at_ns))
        return found

    def wears(self, found: os.stat_result, facts: RestoreFacts, *, names_max: int) -> bool:
        """Return whether a file that an earlier try of the same restore left is dressed, so that it is whole.

        Times come last but for flags, so a file with its time has all that comes before. Of files with more
        than a plain one has this is not believed; they are written again.

        Args:
            names_max: names that the restore gives it; they come after its time, and some may stand.
        """
        return (
            self.is_plain(facts)
            and found.st_nlink <= names_max
            and (found.st_uid, found.st_gid) == self._owner
            and stat.S_IMODE(found.st_mode) == facts.mode
            and found.st_size == facts.size
            and found.st_mtime_ns == facts.mtime_s * _SECOND_NS + facts.mtime_ns
        )

    def dress(self, fd: int, facts: RestoreFacts, *, handle: bool = False) -> list[str]:
        """Make the entry behind `fd` what `facts` say; return what was left off.

        Args:
            handle: the descriptor was opened O_PATH (links, fifos); their attributes are not restored.
        """
        place: int | str = f"/proc/self/fd/{fd}" if handle else fd
        found = os.fstat(fd)
        left_off: list[str] = []
        self._put_owner(place, found, facts, left_off)
        if not handle:
            self._put_attributes(fd, facts, left_off)
        elif facts.attributes.xattrs:
            left_off.append("attributes")
        if not stat.S_ISLNK(found.st_mode):
            self._put_mode(place, found, facts, left_off)
        self._put_times(place, fd, facts, left_off)
        if not handle:
            _put_flags(fd, facts.attributes.inode_flags or 0, left_off)
        return left_off

    def _put_owner(
        self, place: int | str, found: os.stat_result, facts: RestoreFacts, left_off: list[str]
    ) -> None:
        wanted = [*self._owner]
        for which, (number, word) in enumerate(((facts.uid, "owner"), (facts.gid, "group"))):
            if number is None:
                continue
            if self._numbers:
                wanted[which] = number
            elif number != wanted[which]:
                left_off.append(f"{word} {number}")
        if (found.st_uid, found.st_gid) != (wanted[0], wanted[1]):
            os.chown(place, wanted[0], wanted[1])

    def _put_attributes(self, fd: int, facts: RestoreFacts, left_off: list[str]) -> None:
        for name, raw in facts.attributes.xattrs:
            value: bytes | None = raw
            if name in acl.NAMES:
                value = self._acl(name, raw, left_off)
            elif name.startswith(_PRIVILEGED):
                allowed = self._policy.privileged_xattrs and facts.uid is None and self._as_root
                value = raw if allowed else None
            elif not name.startswith(b"user."):
                value = None
            told = os.fsdecode(name).encode("ascii", "backslashreplace").decode()
            if value is None:
                left_off.append(f"attribute {told}")
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as exc:
                left_off.append(f"attribute {told}: {errno.errorcode.get(exc.errno or 0, 'error')}")

    def _acl(self, name: bytes, raw: bytes, left_off: list[str]) -> bytes | None:
        answer = acl.rewrite(raw, captured=self._policy.captured, owner=self._owner, numbers=self._numbers)
        if answer is None:
            return None
        value, dropped = answer
        if dropped:
            left_off.append(f"{dropped} rows of {name.decode()}")
        return value

    def _put_mode(
        self, place: int | str, found: os.stat_result, facts: RestoreFacts, left_off: list[str]
    ) -> None:
        mode = stat.S_IMODE(facts.mode)
        if not stat.S_ISDIR(found.st_mode):
            for bit, owned_by_self, word in (
                (stat.S_ISUID, facts.uid is None, "setuid"),
                (stat.S_ISGID, facts.uid is None and facts.gid is None, "setgid"),
            ):
                if mode & bit and not (self._policy.setuid and owned_by_self):
                    mode &= ~bit
                    left_off.append(word)
        os.chmod(place, mode)

    def _put_times(self, place: int | str, fd: int, facts: RestoreFacts, left_off: list[str]) -> None:
        at_ns = facts.mtime_s * _SECOND_NS + facts.mtime_ns
        os.utime(place, ns=(at_ns, at_ns))
        if not PLAIN_SECONDS[0] <= facts.mtime_s < PLAIN_SECONDS[1] and os.fstat(fd).st_mtime_ns != at_ns:
            left_off.append("time")


def set_nocow(fd: int) -> bool:
    """Only an empty file takes it, so this comes before the data."""
    return _add_flags(fd, FLAG_NOCOW)


def _put_flags(fd: int, flags: int, left_off: list[str]) -> None:
    if flags & FLAG_NODUMP and not _add_flags(fd, FLAG_NODUMP):
        left_off.append("flag nodump")
    for flag, word in ((FLAG_IMMUTABLE, "immutable"), (FLAG_APPEND, "append-only")):
        if flags & flag:
            left_off.append(f"flag {word}")


def _add_flags(fd: int, flags: int) -> bool:
    try:
        (now,) = struct.unpack_from("=I", fcntl.ioctl(fd, GET_FLAGS, bytes(8)))
        fcntl.ioctl(fd, SET_FLAGS, struct.pack("=Q", now | flags))
    except OSError:
        return False
    return True
