"""A word count as faust's tutorial has it: a stream of sentences, a table whose changes go to a changelog topic.

usage: faust_words.py worker ... (faust's own command line), with BOOTSTRAP, FAUST_APP and FAUST_DATA in the environment.
Run by programs_suite.py, which stops it and starts it again without its data: the table must come from the changelog.
"""

import os

import faust

PARTITIONS = 2
NAME = os.environ["FAUST_APP"]

app = faust.App(
    NAME,
    broker="kafka://" + os.environ["BOOTSTRAP"],
    store="memory://",
    datadir=os.environ["FAUST_DATA"],
    topic_partitions=PARTITIONS,
    topic_replication_factor=1,
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
    stream_wait_empty=False,
    broker_commit_interval=0.5,
)
sentences = app.topic(NAME + "-sentences", value_type=str, value_serializer="raw", partitions=PARTITIONS)
words = app.topic(NAME + "-words", key_type=str, value_type=str, partitions=PARTITIONS)
counts = app.Table("counts", default=int, partitions=PARTITIONS)


@app.agent(sentences)
async def split(stream):
    async for sentence in stream:
        for word in sentence.split():
            await words.send(key=word, value=word)


@app.agent(words)
async def count(stream):
    async for word in stream:
        counts[word] += 1


if __name__ == "__main__":
    app.main()
