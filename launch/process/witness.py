"""A small child of a process of a run: `python witness.py [HOST PORT NAME]`, of process 0.

It reads what its parent writes, up to the parent's end: "log RANK PATH", "lost NAME" and, through
faulthandler, that the parent was aborted. It then says, on stderr and in the log, who was lost.
What faulthandler tells of other crashes it passes on to stderr.
"""

import os
import socket
import sys
import time


def main():
    os.setpgid(0, 0)  # a terminal's Ctrl-C is for the parent
    rank, log, lost, aborted, crash = "", "", "", False, b""
    for line in sys.stdin.buffer:
        word, _, rest = os.fsdecode(line.rstrip(b"\n")).partition(" ")
        if word == "log":
            rank, _, log = rest.partition(" ")
        elif word == "lost":
            lost = rest
        elif line.startswith(b"Fatal Python error: Abort"):
            aborted = True
        else:
            crash += line
    if not aborted:
        sys.stderr.buffer.write(crash)
        return
    host, port, first = sys.argv[1:] or ("", "", "")
    if not lost and first and not _answers(host, int(port)):
        lost = first
    if not lost:
        return  # a crash of the parent's own
    text = f"error: {lost}, another process of the run, was lost: start the same command again"
    print(text, file=sys.stderr, flush=True)
    if log:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{now % 1 * 1000:03.0f}Z"
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(log, flags), "a", encoding="utf-8") as file:
            file.write(f"{stamp} {rank} ERROR {text}; end by SIGABRT\n")


def _answers(host, port):
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
