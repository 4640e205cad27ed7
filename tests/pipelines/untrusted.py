"""Texts that nobody should trust, for the tests of what comes from outside."""

from hypothesis import HealthCheck
from hypothesis import settings as bounded
from hypothesis import strategies as st

# The same examples each time, so that what is red in CI is red at home.
tried = bounded(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

HOSTILE = [
    "../x",
    "/etc/passwd",
    "a/b",
    "..",
    "a..b",
    ".",
    "-rf",
    "$(touch ran)",
    "`touch ran`",
    "'; touch ran; '",
    "a\nb",
    "a\n",
    "a\x00b",
    "x' or 'a' = 'a",
    '"',
    "<b>",
    "{{7*7}}",
    "!!python/object/apply:os.system ['touch ran']",
    "ａ",
    "а",
    "a\u202eb",
    "한글",
    "~",
    "%2e%2e%2f",
    "x" * 101,
    "",
]
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
any_name = text | st.sampled_from(HOSTILE) | st.from_regex(r"[A-Za-z0-9._-]{1,10}", fullmatch=True)
GOOD = "a,b,target\n" + "".join(f"{n},{n % 7},{'xy'[n % 2]}\n" for n in range(20))
