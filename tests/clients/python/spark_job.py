"""A Spark application of spark_suite.py, run by PySpark's own Python: `stream` goes on until it is killed, `finish`
takes what is left, ends, and reads the input as a batch; its findings go to the file named last."""

import json
import os
import sys

from pyspark.sql import SparkSession

MODE, SOURCE, COPY, COUNTS, WRITTEN, FOLDER = sys.argv[1:7]
BOOTSTRAP = os.environ["BOOTSTRAP"]
spark = (SparkSession.builder.master("local[2]").appName("ringlog").config("spark.ui.enabled", "false")
         .config("spark.driver.extraClassPath", os.environ["SPARK_LIBS"] + "/*").config("spark.driver.memory", "512m")
         .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
         .config("spark.sql.shuffle.partitions", "2").config("spark.driver.host", "127.0.0.1").getOrCreate())
spark.sparkContext.setLogLevel("WARN")


def kafka(frame):
    return frame.format("kafka").option("kafka.bootstrap.servers", BOOTSTRAP)


def start():
    """Both queries on their checkpoints: a copy with headers, and a count of each key in Spark's state."""
    read = kafka(spark.readStream).option("subscribe", SOURCE).option("startingOffsets", "earliest")
    read = read.option("includeHeaders", "true").option("maxOffsetsPerTrigger", 2000).load()
    counts = read.groupBy("key").count().selectExpr("key", "cast(count as string) as value")
    queries = []
    for name, frame, topic, mode in (("copy", read.select("key", "value", "headers"), COPY, "append"),
                                     ("counts", counts, COUNTS, "update")):
        write = kafka(frame.writeStream).option("topic", topic).outputMode(mode)
        write = write.option("checkpointLocation", f"{FOLDER}/{name}")
        write = write.trigger(availableNow=True) if MODE == "finish" else write.trigger(processingTime="300 milliseconds")
        queries.append(write.start())
    return queries


def batches():
    """Batch reads with all kinds of bounds, and a batch write."""

    def values(starting, ending, **more):
        frame = kafka(spark.read).option("subscribe", SOURCE)
        for key, value in {"startingOffsets": starting, "endingOffsets": ending, **more}.items():
            if value is not None:
                frame = frame.option(key, value if isinstance(value, str) else json.dumps(value))
        rows = frame.load().selectExpr("partition", "offset", "cast(value as string) v", "timestamp").collect()
        return sorted((row.partition, row.offset, row.v, round(row.timestamp.timestamp() * 1000)) for row in rows)

    everything = values("earliest", "latest")
    middle = values({SOURCE: {"0": 10, "1": 0, "2": -2}}, {SOURCE: {"0": 25, "1": 1, "2": 5}})
    stamp = everything[len(everything) // 2][3]
    later = values(None, "latest", startingTimestamp=str(stamp), startingOffsetsByTimestampStrategy="latest")
    split = values("earliest", "latest", minPartitions="7")
    kafka(spark.range(1000).selectExpr("cast(id % 10 as string) as key", "cast(id as string) as value").write).option(
        "topic", WRITTEN).save()
    return {"all": len(everything), "first": everything[0], "middle": [row[:2] for row in middle],
            "later": len(later), "later_wanted": sum(row[3] >= stamp for row in everything), "split": len(split)}


running = start()
for query in running:
    query.awaitTermination()
if MODE == "finish":
    with open(sys.argv[7], "w") as file:
        json.dump(batches(), file)
spark.stop()
