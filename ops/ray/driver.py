"""Has a Ray cluster execute tasks that squire hands it. Squire starts this program, talks to it through pipes, and commits.

    driver.py ADDRESS        standard input, one JSON document a line:
                               {"attempt": ULID, "command": [...], "task": "...", "memory": BYTES}   start a worker
                               {"cancel": ULID}                                                      stop it
                             its end stops all. Standard output, the same way:
                               {"ready": {"nodes": N}} or {"away": WHY}
                               {"attempt": ULID, "node": ID}         a node has started the worker
                               {"attempt": ULID, "line": TEXT}       the worker said something
                               {"attempt": ULID, "exited": CODE}     it ended by itself
                               {"attempt": ULID, "died": WHY}        it was killed, and is gone for certain
                               {"attempt": ULID, "stopped": true}    it was stopped, and is gone for certain
                               {"attempt": ULID, "lost": WHY}        nobody knows whether it is still at work

It decides nothing, and repeats nothing: a task that Ray would start again by itself would be at work twice.

Two processes: the first sees to it that the second, which talks to Ray, is gone soon after squire is, in whatever call it is stuck. Of either
one that is killed the other dies at once.
"""

import ctypes
import json
import os
import select
import signal
import sys
import threading

# What squire is told; Ray itself prints to standard output.
SQUIRE = None
SAYING = threading.Lock()

# How long after squire's end Ray may take to stop what it is at.
END_SECONDS = 10

# How long a worker that was killed may take to be gone.
GONE_SECONDS = 30


def say(**message):
    with SAYING:
        SQUIRE.write(json.dumps(message) + "\n")
        SQUIRE.flush()


def worker(command, task):
    """One worker on the node that Ray chose. Yields where it is, what it says line by line, and its exit code."""
    import ctypes
    import signal
    import subprocess

    import ray

    def die_with_parent():
        # PR_SET_PDEATHSIG: whoever kills the process of Ray's worker kills this one with it.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)

    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
    try:
        yield {"node": ray.get_runtime_context().get_node_id(), "pid": child.pid}
        try:
            child.stdin.write(task.encode())
            child.stdin.close()
        except BrokenPipeError:
            pass  # It has its reasons, and tells them.
        for line in child.stdout:
            yield {"line": line.decode(errors="replace").rstrip("\n")}
        yield {"code": child.wait()}
    finally:
        child.kill()
        child.wait()


def wait_until_gone(pid):
    """On the node of the process: whether it is gone in time."""
    import time

    for _ in range(GONE_SECONDS * 20):
        try:
            state = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1][0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


class Attempts:
    def __init__(self, ray):
        self.ray = ray
        self.flying = {}
        self.cancelled = set()
        self.lock = threading.Lock()
        self.worker = ray.remote(max_retries=0, num_returns="streaming", num_cpus=1)(worker)
        self.probe = ray.remote(max_retries=0, num_cpus=0)(wait_until_gone)

    def begin(self, attempt, command, task, memory):
        generator = self.worker.options(memory=memory, name=f"squire {attempt}").remote(command, task)
        with self.lock:
            self.flying[attempt] = generator
        threading.Thread(target=self.follow, args=(attempt, generator), daemon=True).start()

    def cancel(self, attempt):
        with self.lock:
            generator = self.flying.get(attempt)
            self.cancelled.add(attempt)
        if generator is not None:
            self.ray.cancel(generator, force=True)

    def cancel_all(self):
        with self.lock:
            flying = list(self.flying)
        for attempt in flying:
            self.cancel(attempt)

    def follow(self, attempt, generator):
        where = None
        try:
            for reference in generator:
                said = self.ray.get(reference)
                if "line" in said:
                    say(attempt=attempt, line=said["line"])
                elif "node" in said:
                    where = said
                    say(attempt=attempt, node=said["node"])
                else:
                    code = said["code"]
                    # Popen gives the signal that ended it as a negative number.
                    end = {"exited": code} if code >= 0 else {"died": f"signal {-code} ended it"}
                    say(attempt=attempt, **end)
                    return
            why = "Ray ended it without a word"
        except BaseException as e:  # Whatever Ray raises: the worker did not end by itself.
            why = f"{type(e).__name__}: {str(e).strip().splitlines()[-1] if str(e).strip() else ''}"
        finally:
            with self.lock:
                self.flying.pop(attempt, None)
        self.ended(attempt, where, why)

    def ended(self, attempt, where, why):
        was_cancelled = attempt in self.cancelled
        if where is None and not was_cancelled:
            say(attempt=attempt, lost=why)
        elif where is not None and not self.is_gone(where):
            say(attempt=attempt, lost=why)
        elif was_cancelled:
            say(attempt=attempt, stopped=True)
        else:
            say(attempt=attempt, died=why)

    def is_gone(self, where):
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        try:
            there = NodeAffinitySchedulingStrategy(where["node"], soft=False)
            gone = self.probe.options(scheduling_strategy=there).remote(where["pid"])
            return self.ray.get(gone, timeout=GONE_SECONDS + 10)
        except BaseException:
            return False  # Its node does not answer.


def talk(address):
    """The second process."""
    global SQUIRE
    SQUIRE = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    joined = threading.Event()

    def lines():
        # Squire may be gone before Ray has answered.
        for line in sys.stdin:
            wanted.append(line)
            told.release()
        if not joined.is_set():
            os._exit(0)
        wanted.append(None)
        told.release()

    wanted, told = [], threading.Semaphore(0)
    threading.Thread(target=lines, daemon=True).start()
    try:
        import ray

        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
    except BaseException as e:
        say(away=f"no Ray at {address}: {type(e).__name__}: {e}")
        return
    joined.set()
    # Ray would end at the first; squire says when.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(ready={"nodes": nodes})
    attempts = Attempts(ray)
    while True:
        told.acquire()
        line = wanted.pop(0)
        if line is None:
            break
        line = json.loads(line)
        if "cancel" in line:
            attempts.cancel(line["cancel"])
        else:
            attempts.begin(line["attempt"], line["command"], line["task"], line["memory"])
    attempts.cancel_all()
    ray.shutdown()


def keep(talking):
    """Waits until the other process ends, or squire does; then it has so long."""
    ends = select.poll()
    # Not what squire says, only that its end of the pipe is closed.
    ends.register(0, 0)
    other = os.pidfd_open(talking)
    ends.register(other, select.POLLIN)
    left = None
    while True:
        happened = dict(ends.poll(left))
        if other in happened or not happened:
            break
        ends.unregister(0)
        left = END_SECONDS * 1000
    try:
        # What it may have started with it.
        os.killpg(talking, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(talking, 0)


def main():
    first = os.getpid()
    talking = os.fork()
    if talking:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        keep(talking)
        return
    os.setpgid(0, 0)
    # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() == first:
        talk(sys.argv[1])


if __name__ == "__main__":
    main()
