"""Waiting for what has to happen, and many threads at once."""
import threading
import time


def wait_for(what, condition, deadline_s=60, pause_s=0.1):
    """Polls until the condition holds and returns what it gave. An answer that is a list says what is still missing."""
    end = time.monotonic() + deadline_s
    while True:
        answer = condition()
        missing = answer if isinstance(answer, list) else None
        if missing == [] or (missing is None and answer):
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s} s for: {what}" + (f"; still: {'; '.join(map(str, missing[:12]))}" if missing else ""))
        time.sleep(pause_s)


def at_once(count, call):
    """Runs call(n) in `count` threads; raises the first failure."""
    failures = []

    def run(number):
        try:
            call(number)
        except BaseException as failure:  # pylint: disable=broad-except
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
