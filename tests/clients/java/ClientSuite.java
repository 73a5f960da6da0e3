// Apache's Java client against the endpoint in BOOTSTRAP. Partitions are assigned by hand; groups are in GroupCases.
// Output: `ok - NAME`, `not ok - NAME: why`, one line a case; scripts/test counts them.

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class ClientSuite {
    static final String BOOTSTRAP = System.getenv("BOOTSTRAP");
    static final int PARTITIONS = 3;
    static final int BIG_VALUE_BYTES = 1_000_000;
    static final int WAIT_SECONDS_MAX = 60;
    static final List<Header> NO_HEADERS = List.of();
    static Admin admin;
    static int failed;

    interface Body {
        void run() throws Exception;
    }

    interface Check {
        boolean holds() throws Exception;
    }

    record Rec(byte[] key, byte[] value, long timestampMs, List<Header> headers) {
        boolean same(ConsumerRecord<byte[], byte[]> got) {
            return Arrays.equals(key, got.key()) && Arrays.equals(value, got.value())
                && timestampMs == got.timestamp() && got.timestampType() == TimestampType.CREATE_TIME
                && headers.equals(Arrays.asList(got.headers().toArray()));
        }
    }

    public static void main(String[] args) {
        admin = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP));
        test("admin: create, describe, configs, add partitions, log dirs, cluster", ClientSuite::administration);
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            test("every kind of record, compression " + codec, () -> everyKind(codec));
        }
        test("from the middle, from the end, then a new record", ClientSuite::positions);
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            test("offsets by timestamp are exact inside a batch, compression " + codec, () -> timestamps(codec));
        }
        test("idempotent producer with five requests in flight", ClientSuite::idempotence);
        test("acks 0, 1 and all", ClientSuite::acknowledgements);
        test("a record beyond max.message.bytes is refused", ClientSuite::tooLarge);
        test("read_committed without transactions", ClientSuite::readCommitted);
        GroupCases.run();
        test("delete a topic", ClientSuite::deletion);
        System.out.flush();
        // Client threads that hang in a close must not decide the outcome.
        Runtime.getRuntime().halt(failed == 0 ? 0 : 1);
    }

    static void test(String name, Body body) {
        try {
            body.run();
            System.out.println("ok - java: " + name);
        } catch (Throwable error) {
            failed++;
            System.out.println("not ok - java: " + name + ": " + error.toString().replaceAll("\\s+", " "));
            error.printStackTrace();
        }
    }

    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    static void equal(Object got, Object want, String what) {
        check(want.equals(got), what + ": got " + got + ", want " + want);
    }

    static void eventually(Check check, String what) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS_MAX);
        while (!check.holds()) {
            check(System.nanoTime() < deadline, "not in time: " + what);
            Thread.sleep(100);
        }
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static byte[] noise(long seed, int size) {
        byte[] out = new byte[size];
        new Random(seed).nextBytes(out);
        return out;
    }

    static List<Rec> matrix(long seed) {
        byte[] all = new byte[256];
        for (int i = 0; i < all.length; i++) all[i] = (byte) i;
        List<Header> headers = List.of(new RecordHeader("a", bytes("1")), new RecordHeader("a", bytes("2")),
            new RecordHeader("", bytes("empty name")), new RecordHeader("empty", new byte[0]),
            new RecordHeader("null", (byte[]) null), new RecordHeader("\u00fc", new byte[] {-1, 0}));
        Object[][] shapes = {
            {bytes("key"), bytes("value"), NO_HEADERS}, {null, bytes("x"), NO_HEADERS},
            {bytes("tombstone"), null, NO_HEADERS}, {new byte[0], new byte[0], NO_HEADERS},
            {null, null, headers.subList(0, 1)}, {all, all, NO_HEADERS}, {bytes("h"), bytes("headers"), headers},
            {bytes("text"), bytes("compressible ".repeat(2000)), NO_HEADERS},
            {bytes("noise"), noise(seed + 1, 5000), NO_HEADERS},
            {bytes("big"), noise(seed, BIG_VALUE_BYTES), headers}, {null, bytes("last"), NO_HEADERS}};
        List<Rec> out = new ArrayList<>();
        long baseMs = System.currentTimeMillis() - 60_000;
        for (Object[] s : shapes) {
            @SuppressWarnings("unchecked") List<Header> h = (List<Header>) s[2];
            out.add(new Rec((byte[]) s[0], (byte[]) s[1], baseMs + 7L * out.size(), h));
        }
        return out;
    }

    static String create(String label, int partitions, Map<String, String> configs) throws Exception {
        String name = "t-java-" + label + "-" + UUID.randomUUID();
        admin.createTopics(List.of(new NewTopic(name, partitions, (short) 1).configs(configs))).all().get();
        eventually(() -> partitionsOf(name) == partitions, name + " in the metadata");
        // Kafka tells its metadata before its partitions answer, and an idempotent producer whose first batch comes
        // too early and whose second does not is stuck for good. Admin's ListOffsets retries until they answer.
        Map<TopicPartition, OffsetSpec> ends = new HashMap<>();
        for (int p = 0; p < partitions; p++) ends.put(new TopicPartition(name, p), OffsetSpec.latest());
        admin.listOffsets(ends).all().get();
        return name;
    }

    static int partitionsOf(String name) throws Exception {
        try {
            TopicDescription found = admin.describeTopics(List.of(name)).allTopicNames().get().get(name);
            return (int) found.partitions().stream().filter(p -> p.leader() != null).count();
        } catch (ExecutionException error) {
            if (error.getCause() instanceof UnknownTopicOrPartitionException) return 0;
            throw error;
        }
    }

    static List<RecordMetadata> produce(String topic, int partitions, List<Rec> records, Map<String, ?> more)
            throws Exception {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", BOOTSTRAP, "linger.ms", 50,
            "key.serializer", ByteArraySerializer.class, "value.serializer", ByteArraySerializer.class));
        config.putAll(more);
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        List<RecordMetadata> acked = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config)) {
            for (int p = 0; p < partitions; p++) {
                for (Rec r : records) {
                    sent.add(producer.send(new ProducerRecord<>(topic, p, r.timestampMs, r.key, r.value, r.headers)));
                }
            }
            producer.flush();
            for (Future<RecordMetadata> f : sent) acked.add(f.get());
        }
        return acked;
    }

    static KafkaConsumer<byte[], byte[]> consumer(Map<String, String> more) {
        Properties config = new Properties();
        config.put("bootstrap.servers", BOOTSTRAP);
        config.put("enable.auto.commit", "false");
        config.put("auto.offset.reset", "none");
        config.put("key.deserializer", ByteArrayDeserializer.class);
        config.put("value.deserializer", ByteArrayDeserializer.class);
        config.putAll(more);
        return new KafkaConsumer<>(config);
    }

    static List<ConsumerRecord<byte[], byte[]>> take(KafkaConsumer<byte[], byte[]> consumer, int count) {
        List<ConsumerRecord<byte[], byte[]>> out = new ArrayList<>();
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS_MAX);
        while (out.size() < count && System.nanoTime() < deadline) {
            consumer.poll(Duration.ofSeconds(1)).forEach(out::add);
        }
        return out;
    }

    static List<ConsumerRecord<byte[], byte[]>> consume(String topic, int partition, long from, int count) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            TopicPartition assigned = new TopicPartition(topic, partition);
            consumer.assign(List.of(assigned));
            if (from == 0) consumer.seekToBeginning(List.of(assigned));
            else consumer.seek(assigned, from);
            return take(consumer, count);
        }
    }

    static void same(List<Rec> want, List<ConsumerRecord<byte[], byte[]>> got, long from) {
        equal(got.size(), want.size(), "number of records");
        for (int i = 0; i < want.size(); i++) {
            equal(got.get(i).offset(), from + i, "offset");
            check(want.get(i).same(got.get(i)), "the record at offset " + (from + i) + " differs");
        }
    }

    static void administration() throws Exception {
        String topic = create("admin", PARTITIONS, Map.of("retention.ms", "3600000"));
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Config config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
        equal(config.get("retention.ms").value(), "3600000", "retention.ms");
        check(!config.get("retention.ms").isDefault(), "retention.ms was set, so it is no default");
        for (String[] d : new String[][] {{"segment.bytes", "1073741824"}, {"max.message.bytes", "1048588"},
            {"cleanup.policy", "delete"}, {"compression.type", "producer"}}) {
            equal(config.get(d[0]).value(), d[1], d[0]);
            check(config.get(d[0]).isDefault(), d[0] + " is a default");
        }
        // Kafka 4 sets this one cluster-wide when it formats its storage, so whether it is a default is left open.
        equal(config.get("min.insync.replicas").value(), "1", "min.insync.replicas");
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(PARTITIONS + 2))).all().get();
        eventually(() -> partitionsOf(topic) == PARTITIONS + 2, "new partitions");
        check(admin.listTopics().names().get().contains(topic), "listed");
        equal(admin.describeCluster().nodes().get().size(), 1, "nodes");
        check(!admin.describeCluster().clusterId().get().isEmpty(), "cluster id");
        int node = admin.describeCluster().controller().get().id();
        boolean found = admin.describeLogDirs(List.of(node)).allDescriptions().get().get(node).values().stream()
            .anyMatch(d -> d.error() == null && d.replicaInfos().containsKey(new TopicPartition(topic, 0)));
        check(found, "the partition is in a log directory");
    }

    static void everyKind(String codec) throws Exception {
        String topic = create(codec, PARTITIONS, Map.of());
        List<Rec> records = matrix(codec.hashCode());
        produce(topic, PARTITIONS, records, Map.of("compression.type", codec));
        for (int p = 0; p < PARTITIONS; p++) same(records, consume(topic, p, 0, records.size()), 0);
    }

    static void positions() throws Exception {
        String topic = create("positions", 1, Map.of());
        List<Rec> records = matrix(7);
        produce(topic, 1, records, Map.of("compression.type", "lz4"));
        int size = records.size();
        for (int from = 1; from < size; from++) {
            same(records.subList(from, size), consume(topic, 0, from, size - from), from);
        }
        TopicPartition assigned = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            consumer.assign(List.of(assigned));
            consumer.seekToEnd(List.of(assigned));
            equal(consumer.position(assigned), (long) size, "position at the end");
            equal(consumer.beginningOffsets(List.of(assigned)).get(assigned), 0L, "beginning");
            equal(consumer.endOffsets(List.of(assigned)).get(assigned), (long) size, "end");
            equal(consumer.poll(Duration.ofMillis(500)).count(), 0, "records at the end");
            List<Rec> fresh = List.of(new Rec(bytes("new"), bytes("one"), System.currentTimeMillis(), NO_HEADERS));
            produce(topic, 1, fresh, Map.of());
            same(fresh, take(consumer, 1), size);
        }
    }

    static void timestamps(String codec) throws Exception {
        String topic = create("time-" + codec, 1, Map.of());
        long baseMs = System.currentTimeMillis() - 1_000_000;
        List<Rec> records = new ArrayList<>();
        // Timestamps that go up and down: the answer is the first offset at or after the asked time.
        for (int i = 0; i < 60; i++) {
            long timestampMs = baseMs + 10L * (i % 3 == 1 ? i + 5 : i);
            records.add(new Rec(null, bytes("v" + i), timestampMs, NO_HEADERS));
        }
        produce(topic, 1, records.subList(0, 30), Map.of("compression.type", codec));
        produce(topic, 1, records.subList(30, 60), Map.of("compression.type", codec));
        TopicPartition assigned = new TopicPartition(topic, 0);
        long largest = records.stream().mapToLong(Rec::timestampMs).max().getAsLong();
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            consumer.assign(List.of(assigned));
            for (long asked = baseMs - 5; asked <= largest + 5; asked += 5) {
                int want = 0;
                while (want < records.size() && records.get(want).timestampMs < asked) want++;
                OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(assigned, asked)).get(assigned);
                if (want == records.size()) {
                    check(found == null, "after the last there is " + found);
                } else {
                    equal(found.offset(), (long) want, "offset at " + (asked - baseMs));
                    equal(found.timestamp(), records.get(want).timestampMs, "timestamp at " + (asked - baseMs));
                }
            }
        }
        ListOffsetsResultInfo max =
            admin.listOffsets(Map.of(assigned, OffsetSpec.maxTimestamp())).partitionResult(assigned).get();
        equal(max.timestamp(), largest, "largest timestamp");
        equal(records.get((int) max.offset()).timestampMs, largest, "the record with the largest timestamp");
    }

    static void idempotence() throws Exception {
        String topic = create("idem", PARTITIONS, Map.of());
        List<Rec> records = new ArrayList<>();
        for (int i = 0; i < 2000; i++) {
            records.add(new Rec(bytes("" + i), bytes("v" + i), System.currentTimeMillis(), NO_HEADERS));
        }
        List<RecordMetadata> acked = produce(topic, PARTITIONS, records, Map.of("enable.idempotence", true,
            "batch.size", 1000, "linger.ms", 0, "max.in.flight.requests.per.connection", 5));
        for (int i = 0; i < acked.size(); i++) {
            equal(acked.get(i).offset(), (long) (i % records.size()), "acknowledged offset");
        }
        for (int p = 0; p < PARTITIONS; p++) same(records, consume(topic, p, 0, records.size()), 0);
    }

    static void acknowledgements() throws Exception {
        String topic = create("acks", 1, Map.of());
        List<Rec> sent = new ArrayList<>();
        for (String acks : List.of("0", "1", "all")) {
            List<Rec> records = new ArrayList<>();
            for (int i = 0; i < 100; i++) {
                records.add(new Rec(null, bytes(acks + i), System.currentTimeMillis(), NO_HEADERS));
            }
            produce(topic, 1, records, Map.of("acks", acks, "enable.idempotence", acks.equals("all")));
            sent.addAll(records);
            same(sent, consume(topic, 0, 0, sent.size()), 0);
        }
    }

    static void tooLarge() throws Exception {
        String topic = create("large", 1, Map.of("max.message.bytes", "2000"));
        Rec large = new Rec(null, noise(1, 3000), System.currentTimeMillis(), NO_HEADERS);
        try {
            produce(topic, 1, List.of(large), Map.of());
            throw new AssertionError("accepted");
        } catch (ExecutionException error) {
            check(error.getCause() instanceof RecordTooLargeException, "wrong error: " + error.getCause());
        }
        produce(topic, 1, List.of(new Rec(null, noise(2, 1000), large.timestampMs, NO_HEADERS)), Map.of());
    }

    static void readCommitted() throws Exception {
        String topic = create("committed", 1, Map.of());
        List<Rec> records = matrix(9);
        produce(topic, 1, records, Map.of());
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of("isolation.level", "read_committed"))) {
            TopicPartition assigned = new TopicPartition(topic, 0);
            consumer.assign(List.of(assigned));
            consumer.seekToBeginning(List.of(assigned));
            same(records, take(consumer, records.size()), 0);
            equal(consumer.endOffsets(List.of(assigned)).get(assigned), (long) records.size(), "last stable offset");
        }
    }

    static void deletion() throws Exception {
        String topic = create("gone", PARTITIONS, Map.of());
        produce(topic, PARTITIONS, matrix(3), Map.of());
        admin.deleteTopics(Collections.singleton(topic)).all().get();
        eventually(() -> !admin.listTopics().names().get().contains(topic), "topic gone");
        eventually(() -> partitionsOf(topic) == 0, "no partitions");
    }
}
