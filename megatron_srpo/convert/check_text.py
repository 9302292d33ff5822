"""What `srpo convert check` computes log-probs of: English, a program, and mathematics, written for this."""

from __future__ import annotations

PASSAGES = (
    """The ferry left the harbour at six, an hour later than the timetable promised, with eleven passengers and a
crate of oranges on its deck. Nobody minded. The sea was flat, the light came in low over the islands, and the
captain had put a kettle on the small stove behind the wheel. Before the war, she said, there had been four boats
a day and a post office on every island; now there was one boat, and the post came when it came. By the time the
first houses appeared between the pines, the crate was half empty and everybody smelled of oranges. "What will you
do there all winter?" asked the boy. The teacher thought about it for a while. "Read," he said, "and learn to
repair engines."
""",
    '''def merge_intervals(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join intervals that overlap or touch, in ascending order."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


assert merge_intervals([(5, 8), (1, 3), (2, 4)]) == [(1, 4), (5, 8)]
for line in sys.stdin:
    words = line.strip().lower().split(",")
    print({word: words.count(word) for word in set(words)})
''',
    r"""Problem. A train travels 240 km at a constant speed. If it went 20 km/h faster, it would arrive one hour
earlier. What is its speed?

Solution. Let the speed be $v$ km/h. The two times differ by one hour, so
$$\frac{240}{v} - \frac{240}{v + 20} = 1.$$
Multiplying by $v(v + 20)$ gives $240 \cdot 20 = v^2 + 20v$, that is $v^2 + 20v - 4800 = 0$. Its roots are
$v = -10 \pm \sqrt{100 + 4800} = -10 \pm 70$, and the speed is positive, so $v = 60$. Check: $240/60 = 4$ hours and
$240/80 = 3$ hours. The answer is $\boxed{60}$.
""",
)
