"""A schema registry that keeps everything in a Kafka topic: Apicurio Registry, used by Confluent's own serializers.

Confluent's Schema Registry is in no public package registry; Apicurio speaks its REST interface. REGISTRY_HOME is the
unpacked application, REGISTRY_JAVA runs it. It is killed and started again: what it knows must come back from its topic.
"""

import json
import os
import socket
import tempfile
import time
import urllib.request

import wire
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from jvm import Process, end_all, soon
from suite import BOOTSTRAP, WAIT_SECONDS_MAX, Suite, assert_eq, topic_name

suite = Suite("schema-registry")
FOLDER = tempfile.TemporaryDirectory(prefix="registry-")
AVRO = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}, {"name": "what", "type": "string"}]}
JSON = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Order", "type": "object",
        "properties": {"id": {"type": "integer"}, "what": {"type": "string"}}, "required": ["id", "what"]}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


PORT = free_port()
PROCESS = None


def start(*subjects):
    """Returns when it answers, and knows these subjects: it reads its topic in the background."""
    global PROCESS
    home = os.environ["REGISTRY_HOME"]
    command = [os.environ["REGISTRY_JAVA"], "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Dquarkus.http.port={PORT}",
               "-Dquarkus.http.host=127.0.0.1", "-Dquarkus.management.enabled=false", "-Dquarkus.log.level=WARN",
               "-Dapicurio.storage.kind=kafkasql", f"-Dapicurio.kafkasql.bootstrap.servers={BOOTSTRAP}",
               "-jar", f"{home}/quarkus-run.jar"]
    PROCESS = Process("registry", command, FOLDER.name)

    def answers():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/apis/ccompat/v7/subjects", timeout=20) as answer:
                return set(json.loads(answer.read())) >= set(subjects)
        except OSError:
            return False

    soon(answers, f"the registry answers and knows {subjects}", PROCESS)
    return SchemaRegistryClient({"url": f"http://127.0.0.1:{PORT}/apis/ccompat/v7"})


def create(label):
    name = topic_name("registry-" + label)
    with wire.Connection() as connection:
        assert_eq(connection.create_topic(name, 1), 0)
        connection.settle(name, 1)
    return name


def roundtrip(topic, serializer, deserializer, first):
    """Ten more objects through the topic; reads all of it."""
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True})
    context = SerializationContext(topic, MessageField.VALUE)
    for i in range(first, first + 10):
        producer.produce(topic, serializer({"id": i, "what": f"thing {i}"}, context))
    assert_eq(producer.flush(WAIT_SECONDS_MAX), 0, "unsent")
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while len(found) < first + 10 and time.monotonic() < deadline:
        found += [deserializer(m.value(), context) for m in consumer.consume(100, 0.5) if m.error() is None]
    consumer.close()
    assert_eq(found, [{"id": i, "what": f"thing {i}"} for i in range(first + 10)], "objects")


def serializers(client):
    return ((AvroSerializer(client, json.dumps(AVRO)), AvroDeserializer(client)),
            (JSONSerializer(json.dumps(JSON), client), JSONDeserializer(json.dumps(JSON), schema_registry_client=client)))


@suite.case("Avro and JSON serializers: schemas registered, found by id, and all there after the registry was killed")
def _():
    client = start()
    topics = [create("avro"), create("json")]
    for topic, (to, back) in zip(topics, serializers(client)):
        roundtrip(topic, to, back, 0)
    subjects = {f"{topic}-value" for topic in topics}
    assert subjects <= set(client.get_subjects()), client.get_subjects()
    wider = json.loads(json.dumps(AVRO))
    wider["fields"].append({"name": "note", "type": "string", "default": ""})
    before = {subject: client.get_latest_version(subject).schema_id for subject in subjects}
    second = client.register_schema(f"{topics[0]}-value", Schema(json.dumps(wider), "AVRO"))
    assert second not in before.values(), second
    PROCESS.kill()
    client = start(*subjects)
    assert_eq(client.get_latest_version(f"{topics[0]}-value").schema_id, second, "the newest schema")
    assert_eq(client.get_latest_version(f"{topics[1]}-value").schema_id, before[f"{topics[1]}-value"], "the other one")
    for topic, (to, back) in zip(topics, serializers(client)):
        roundtrip(topic, to, back, 10)


@suite.case("a schema that is not compatible is refused, one that is deleted is gone, also after a kill")
def _():
    client = SchemaRegistryClient({"url": f"http://127.0.0.1:{PORT}/apis/ccompat/v7"})
    subject = topic_name("registry-subject")
    client.register_schema(subject, Schema(json.dumps(AVRO), "AVRO"))
    client.set_compatibility(subject, "BACKWARD")
    other = {**AVRO, "fields": [{"name": "id", "type": "string"}]}
    try:
        client.register_schema(subject, Schema(json.dumps(other), "AVRO"))
        raise AssertionError("an incompatible schema was taken")
    except SchemaRegistryError as error:
        assert_eq(error.http_status_code, 409, str(error))
    gone = topic_name("registry-gone")
    client.register_schema(gone, Schema(json.dumps(AVRO), "AVRO"))
    client.delete_subject(gone)
    PROCESS.kill()
    client = start(subject)
    subjects = client.get_subjects()
    assert gone not in subjects, subjects
    PROCESS.stop()


suite.run(end_all, FOLDER.cleanup)
