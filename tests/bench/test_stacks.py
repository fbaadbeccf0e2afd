from .stacks import Stack, by_function, by_stage, read_stacks

LINES = [
    "thread (0x7F01): MainThread;serve (app/main.py:5);run (x/site-packages/uvicorn/server.py:9);"
    "labels (x/site-packages/prometheus_client/metrics.py:170) 7",
    "thread (0x7F02): lightmbert-runner_1;run (app/threads.py:3);"
    "run (x/site-packages/onnxruntime/capi/session.py:2) 20",
    "thread (0x7F03): lightmbert-runner_2;run (app/threads.py:4) 3",
]


def test_threads_of_one_pool_share_a_name() -> None:
    threads = [stack.thread for stack in read_stacks(LINES)]
    assert threads == ["MainThread", "lightmbert-runner", "lightmbert-runner"]


def test_the_innermost_frame_that_is_known_names_the_stage() -> None:
    assert by_stage(read_stacks(LINES)) == {"metrics": 7, "graph": 20, "runners": 3}


def test_a_function_counts_once_per_sample_whatever_its_line() -> None:
    twice = Stack("t", ("f (app/x.py:1)", "g (a/site-packages/y.py:2)", "f (app/x.py:9)"), 4)
    alone, whole = by_function([twice])
    assert alone == {"f (app/x.py)": 4}
    assert whole == {"f (app/x.py)": 4, "g (y.py)": 4}
