"""Who may use which routes: the few kinds of access that the tables name.

Not the check (`serve.py`, and the handlers for whose something is). In words, for the documentation.
"""

from typing import Final

from session_service.http.routes import Access

READ: Final = Access(role="user", scope="read", words="One's own; operators see all.")
OWN: Final = Access(role="user", scope="read", words="One's own only.")
ACT: Final = Access(role="user", scope="sessions", words="One's own; operators, audited, on all.")
ACT_OWN: Final = Access(role="user", scope="sessions", words="One's own only.")
SEE_OWN: Final = Access(
    role="user", scope="sessions", words="One's own only, by the signed-in browser itself."
)
FILES: Final = Access(role="user", scope="files", words="One's own; administrators, audited, all.")
FILES_OWN: Final = Access(role="user", scope="files", words="One's own only.")
SIGN_IN: Final = Access(role="user", scope="read", words="The signed-in browser itself.")
OPERATE: Final = Access(role="operator", scope="operate")
ADMIN: Final = Access(role="administrator", scope="admin")
