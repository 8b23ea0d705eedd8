"""A worker between the tuner and a real one, which does with some schedules what a bad candidate does.

``misbehaving_worker.py RULES WORKER...``: RULES is JSON, of each schedule in the words of a report what happens when it
is checked; WORKER is the program that the others are passed on to. A line is added to the file that RULES names as
``starts`` at each start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

RULES = json.loads(sys.argv[1])
OWN, REPLIES = sys.stdin.buffer, sys.stdout.buffer


def message(stream):
    """The next message, whole, and what it says; None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    body = stream.read(int.from_bytes(head[4:], "little"))
    return head + body, json.loads(body)


def misbehave(how):
    """What a candidate may do to its process."""
    if how == "hangs":
        time.sleep(3600)
    elif how == "aborts":
        os.abort()
    elif how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exits":
        os._exit(7)
    elif how == "corrupts the pipe":
        REPLIES.write(b"the result is 42\n")
        REPLIES.flush()
        time.sleep(3600)


with open(RULES["starts"], "a") as starts:
    starts.write(f"{os.getpid()}\n")
worker = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
while (request := message(OWN)) is not None:
    whole, said = request
    if "Check" in said:
        cpu = said["Check"]["schedule"]["cpu"]
        misbehave(RULES.get(f"token block {cpu['token_block']}, strip {cpu['strip']}"))
    worker.stdin.write(whole)
    worker.stdin.flush()
    reply = message(worker.stdout)
    if reply is None:
        break
    REPLIES.write(reply[0])
    REPLIES.flush()
worker.kill()
