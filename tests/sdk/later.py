"""What the clients ask for and the server does not answer yet, in one place. Strict: what passes must leave this list.

A case of a client that uses an operation of OPERATIONS has to fail, and to say what is written there. When the
operation is served, its line goes. CASES holds single cases that fail for another reason.
"""
import re

# Operation -> how a refusal of today reads in any client, such as r"NotImplemented|\b501\b".
OPERATIONS = {}

# (client, pattern of the case's whole name) -> (why it fails, how that reads).
CASES = {}


def expected_failure(client, case):
    """(reason, pattern of the message) when a case has to fail today, else None."""
    waits = [operation for operation in case.operations if operation in OPERATIONS]
    if waits:
        return f"not served: {', '.join(waits)}", "|".join(OPERATIONS[operation] for operation in waits)
    for (name, pattern), expected in CASES.items():
        if name == client and re.fullmatch(pattern, case.name):
            return expected
    return None


def unused(client, cases):
    """Entries of CASES for a client that name no case of it."""
    return [pattern for name, pattern in CASES if name == client and not any(re.fullmatch(pattern, case.name) for case in cases)]
