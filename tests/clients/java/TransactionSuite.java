// Apache's Java client and transactions, against the endpoint in BOOTSTRAP: what commits is read by consumers of
// committed data, what aborts is not, offsets commit with the records, a second producer fences the first.
// Output: `ok - NAME`, `not ok - NAME: why`, one line a case; scripts/test counts them.

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.AbortTransactionSpec;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListTransactionsOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public final class TransactionSuite {
    static final String BOOTSTRAP = System.getenv("BOOTSTRAP");
    static final int WAIT_SECONDS_MAX = 60;
    static Admin admin;
    static int failed;

    interface Body {
        void run() throws Exception;
    }

    public static void main(String[] args) {
        admin = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP));
        test("commit is seen, abort is not, in the order of the log", TransactionSuite::commitAndAbort);
        for (String protocol : List.of("classic", "consumer")) {
            test("consume, transform, produce: offsets exact, group protocol " + protocol,
                () -> consumeTransformProduce(protocol));
        }
        test("a second producer fences the first and aborts its transaction", TransactionSuite::fencing);
        test("admin: list, describe, producers, abort a transaction, fence a producer", TransactionSuite::administration);
        System.out.flush();
        Runtime.getRuntime().halt(failed == 0 ? 0 : 1);
    }

    static void test(String name, Body body) {
        try {
            body.run();
            System.out.println("ok - java transactions: " + name);
        } catch (Throwable error) {
            failed++;
            System.out.println("not ok - java transactions: " + name + ": " + error.toString().replaceAll("\\s+", " "));
            error.printStackTrace();
        }
    }

    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    static void equal(Object got, Object want, String what) {
        check(want.equals(got), what + ": got " + got + ", want " + want);
    }

    static String create(String prefix, int partitions) throws Exception {
        String name = prefix + "-" + UUID.randomUUID().toString().substring(0, 8);
        admin.createTopics(List.of(new NewTopic(name, partitions, (short) 1))).all().get();
        return name;
    }

    static KafkaProducer<String, String> producer(String id) {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", BOOTSTRAP);
        config.put("transactional.id", id);
        config.put("linger.ms", 0);
        KafkaProducer<String, String> made =
            new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
        made.initTransactions();
        return made;
    }

    static KafkaConsumer<String, String> consumer(Map<String, Object> more) {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", BOOTSTRAP);
        config.put("auto.offset.reset", "earliest");
        config.put("enable.auto.commit", false);
        config.put("isolation.level", "read_committed");
        config.putAll(more);
        return new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
    }

    /** Values of a topic's partition 0 from its beginning to its end. */
    static List<String> read(String topic, String isolation) throws Exception {
        List<String> values = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = consumer(Map.of("isolation.level", isolation))) {
            TopicPartition place = new TopicPartition(topic, 0);
            consumer.assign(List.of(place));
            long end = consumer.endOffsets(List.of(place)).get(place);
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS_MAX);
            while (consumer.position(place) < end) {
                check(System.nanoTime() < deadline, "not read to offset " + end);
                for (ConsumerRecord<String, String> one : consumer.poll(Duration.ofMillis(100))) values.add(one.value());
            }
        }
        return values;
    }

    static void send(KafkaProducer<String, String> producer, String topic, String... values) throws Exception {
        for (String value : values) producer.send(new ProducerRecord<>(topic, 0, null, value)).get();
    }

    static void commitAndAbort() throws Exception {
        String topic = create("txn", 1);
        try (KafkaProducer<String, String> one = producer(topic + "-1");
             KafkaProducer<String, String> two = producer(topic + "-2")) {
            one.beginTransaction();
            two.beginTransaction();
            send(one, topic, "a", "b");
            send(two, topic, "x");
            send(one, topic, "c");
            equal(read(topic, "read_committed"), List.of(), "nothing is decided");
            one.commitTransaction();
            equal(read(topic, "read_committed"), List.of("a", "b"), "the open one holds the rest back");
            two.abortTransaction();
            equal(read(topic, "read_committed"), List.of("a", "b", "c"), "all is decided");
            for (int round = 0; round < 5; round++) {
                one.beginTransaction();
                send(one, topic, "r" + round);
                if (round % 2 == 0) one.commitTransaction(); else one.abortTransaction();
            }
        }
        equal(read(topic, "read_committed"), List.of("a", "b", "c", "r0", "r2", "r4"), "committed");
        equal(read(topic, "read_uncommitted"), List.of("a", "b", "x", "c", "r0", "r1", "r2", "r3", "r4"), "all");
    }

    static void consumeTransformProduce(String protocol) throws Exception {
        String from = create("from", 1);
        String to = create("to", 1);
        String group = from + "-group";
        List<String> wanted = new ArrayList<>();
        try (KafkaProducer<String, String> source = producer(from + "-source")) {
            source.beginTransaction();
            for (int number = 0; number < 30; number++) {
                source.send(new ProducerRecord<>(from, 0, null, "v" + number));
                wanted.add("V" + number);
            }
            source.commitTransaction();
        }
        Map<String, Object> config = Map.of("group.id", group, "group.protocol", protocol, "max.poll.records", 16);
        int round = 0;
        int done = 0;
        TopicPartition place = new TopicPartition(from, 0);
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS_MAX);
        // Every other transaction is aborted and its consumer goes away: the next one begins where the last commit was.
        while (done < wanted.size()) {
            check(System.nanoTime() < deadline, "not in time");
            try (KafkaConsumer<String, String> consumer = consumer(config);
                 KafkaProducer<String, String> producer = producer(to + "-id")) {
                consumer.subscribe(List.of(from));
                ConsumerRecords<String, String> batch = ConsumerRecords.empty();
                while (batch.isEmpty()) {
                    check(System.nanoTime() < deadline, "nothing is polled");
                    batch = consumer.poll(Duration.ofMillis(200));
                }
                producer.beginTransaction();
                long next = 0;
                for (ConsumerRecord<String, String> one : batch) {
                    producer.send(new ProducerRecord<>(to, 0, null, one.value().toUpperCase()));
                    next = one.offset() + 1;
                }
                producer.sendOffsetsToTransaction(
                    Map.of(place, new OffsetAndMetadata(next, "round " + round)), consumer.groupMetadata());
                if (round++ % 2 == 0) {
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                    done += batch.count();
                    OffsetAndMetadata stored =
                        admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(place);
                    equal(stored.offset(), next, "committed offset");
                }
            }
        }
        equal(read(to, "read_committed"), wanted, "every record once");
    }

    static void fencing() throws Exception {
        String topic = create("fence", 1);
        String id = topic + "-id";
        KafkaProducer<String, String> first = producer(id);
        first.beginTransaction();
        send(first, topic, "lost");
        try (KafkaProducer<String, String> second = producer(id)) {
            boolean refused = false;
            try {
                send(first, topic, "late");
                first.commitTransaction();
            } catch (Exception error) {
                refused = true;
            }
            check(refused, "the first producer still writes");
            second.beginTransaction();
            send(second, topic, "kept");
            second.commitTransaction();
        }
        first.close(Duration.ZERO);
        equal(read(topic, "read_committed"), List.of("kept"), "committed");
    }

    static void administration() throws Exception {
        String topic = create("admin", 1);
        String id = topic + "-id";
        TopicPartition place = new TopicPartition(topic, 0);
        KafkaProducer<String, String> producer = producer(id);
        producer.beginTransaction();
        send(producer, topic, "lost");
        boolean listed = admin.listTransactions(new ListTransactionsOptions()).all().get().stream()
            .anyMatch(one -> one.transactionalId().equals(id) && one.state() == TransactionState.ONGOING);
        check(listed, "the transaction is not listed");
        TransactionDescription description = admin.describeTransactions(List.of(id)).description(id).get();
        equal(description.topicPartitions(), java.util.Set.of(place), "partitions");
        List<ProducerState> states = admin.describeProducers(List.of(place)).partitionResult(place).get().activeProducers();
        equal(states.size(), 1, "producers");
        ProducerState state = states.get(0);
        equal(state.currentTransactionStartOffset().getAsLong(), 0L, "first offset");
        // As if its coordinator had forgotten it.
        admin.abortTransaction(new AbortTransactionSpec(place, state.producerId(), (short) state.producerEpoch(),
            state.coordinatorEpoch().orElse(-1))).all().get();
        equal(read(topic, "read_committed"), List.of(), "aborted");
        admin.fenceProducers(List.of(id)).all().get();
        boolean refused = false;
        try {
            send(producer, topic, "late");
            producer.commitTransaction();
        } catch (KafkaException | java.util.concurrent.ExecutionException error) {
            refused = true;
        }
        check(refused, "the fenced producer still writes");
        producer.close(Duration.ZERO);
        equal(admin.listOffsets(Map.of(place, OffsetSpec.latest())).all().get().get(place).offset(), 3L,
            "end: a record, the administrator's marker, the coordinator's marker");
    }
}
