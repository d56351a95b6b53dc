"""Lists of what cannot pass in the test suites of others, and why.

    [reason]                    what follows is run and has to fail
    [not run: reason]           what follows is left out
    module::test v1,v4          only with these versions of the signature; `*` stands for anything
"""
import fnmatch


class Expectations:
    """One list, for one version of the signature."""

    def __init__(self, path, signature):
        self._fails, self._not_run, self._used = {}, {}, set()
        group = None
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                line = line.strip()
                if not line or line.startswith("#"):
                    continue
                if line.startswith("["):
                    reason = line.strip("[]")
                    group, reason = (self._not_run, reason[9:]) if reason.startswith("not run: ") else (self._fails, reason)
                    continue
                assert group is not None, f"{path}:{number}: a test without a reason"
                pattern, _, only = line.partition(" ")
                if not only or signature in only.split(","):
                    assert pattern not in self._fails and pattern not in self._not_run, f"{path}:{number}: {pattern} is listed twice"
                    group[pattern] = reason

    def _find(self, group, name):
        for pattern, reason in group.items():
            # Parameters stand in square brackets, which mean something else in patterns.
            if pattern == name or fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")):
                self._used.add(pattern)
                return reason
        return None

    def fails(self, name):
        """Why a test has to fail, None when it has to pass."""
        return self._find(self._fails, name)

    def not_run(self, name):
        """Why a test is not run, None when it is."""
        return self._find(self._not_run, name)

    def whole_module(self, module):
        """Whether nothing of a module is run."""
        return f"{module}::*" in self._not_run and self.not_run(f"{module}::") is not None

    def unused(self):
        """Entries that named no test."""
        return sorted((set(self._fails) | set(self._not_run)) - self._used)
