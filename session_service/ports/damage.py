"""What damage in the store kept from being given, as it is told to users. Not what is done about it."""

import msgspec


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be given because an object of the store is damaged or missing: a file as a whole, or
    a folder of which not all names could be read. kind: file, folder.
    """

    path: str
    kind: str
    object: str
    reason: str
