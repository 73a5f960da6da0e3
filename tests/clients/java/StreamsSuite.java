// Kafka Streams against the endpoint in BOOTSTRAP: a word count with exactly-once v2 in a process of its own, which is
// killed in the middle and started again. Every word must be counted 1, 2, 3, … with no number missing or twice.
// Output: `ok - NAME`, `not ok - NAME: why`, one line a case; scripts/test counts them.

import java.io.File;
import java.nio.file.Files;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.Stores;

public final class StreamsSuite {
    static final String BOOTSTRAP = System.getenv("BOOTSTRAP");
    static final int KILLS = Integer.parseInt(System.getenv().getOrDefault("STREAMS_KILLS", "1"));
    static final int LINES_PER_PART = 300;
    static final int WAIT_SECONDS_MAX = 150;

    public static void main(String[] args) throws Exception {
        if (args.length > 0) {
            count(args[0], args[1], args[2]);
            return;
        }
        int status = 0;
        try {
            killedAndRestarted();
            System.out.println("ok - streams: a word count with exactly_once_v2, killed and restarted, counts exactly");
        } catch (Throwable error) {
            status = 1;
            System.out.println("not ok - streams: word count: " + error.toString().replaceAll("\\s+", " "));
            error.printStackTrace();
        }
        System.out.flush();
        Runtime.getRuntime().halt(status);
    }

    /** The application: runs until it is killed. */
    static void count(String application, String from, String to) throws Exception {
        Properties config = new Properties();
        config.put("application.id", application);
        config.put("bootstrap.servers", BOOTSTRAP);
        config.put("processing.guarantee", "exactly_once_v2");
        config.put("commit.interval.ms", 100);
        config.put("statestore.cache.max.bytes", 0);
        config.put("num.stream.threads", 2);
        config.put("replication.factor", 1);
        config.put("state.dir", Files.createTempDirectory("streams").toString());
        config.put("consumer.session.timeout.ms", 6000);
        config.put("consumer.heartbeat.interval.ms", 1000);
        config.put("consumer.auto.offset.reset", "earliest");
        // A killed process leaves a transaction open; the coordinator ends it after this.
        config.put("producer.transaction.timeout.ms", 4000);
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(from, Consumed.with(Serdes.String(), Serdes.String()))
            .flatMapValues(line -> Arrays.asList(line.split(" ")))
            .groupBy((key, word) -> word, Grouped.with(Serdes.String(), Serdes.String()))
            .count(Materialized.<String, Long>as(Stores.inMemoryKeyValueStore("counts"))
                .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
            .toStream()
            .to(to, Produced.with(Serdes.String(), Serdes.Long()));
        KafkaStreams streams = new KafkaStreams(builder.build(), config);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.start();
        Thread.sleep(Long.MAX_VALUE);
    }

    static Process start(String application, String from, String to) throws Exception {
        List<String> command = List.of(System.getProperty("java.home") + File.separator + "bin" + File.separator + "java",
            "-Xmx384m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
            "-cp", System.getProperty("java.class.path"), "StreamsSuite", application, from, to);
        return new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT)
            .redirectOutput(ProcessBuilder.Redirect.DISCARD).start();
    }

    static void killedAndRestarted() throws Exception {
        String name = "words-" + UUID.randomUUID().toString().substring(0, 8);
        String from = name + "-in";
        String to = name + "-out";
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP))) {
            admin.createTopics(List.of(new NewTopic(from, 2, (short) 1), new NewTopic(to, 2, (short) 1))).all().get();
        }
        Map<String, Long> wanted = new HashMap<>();
        Random random = new Random(7);
        Process process = start(name, from, to);
        try {
            for (int part = 0; part <= KILLS; part++) {
                long before = total(wanted);
                write(from, random, wanted);
                if (part == KILLS) break;
                // In the middle: something of this part was counted, and not all of it.
                await(to, seen -> count(seen) > before, "the first counts of part " + part);
                Thread.sleep(random.nextInt(300));
                process.destroyForcibly().waitFor();
                process = start(name, from, to);
            }
            long all = total(wanted);
            Map<String, List<Long>> seen = await(to, found -> count(found) >= all, "all counts");
            for (Map.Entry<String, Long> one : wanted.entrySet()) {
                List<Long> counts = seen.getOrDefault(one.getKey(), List.of());
                List<Long> exact = new ArrayList<>();
                for (long number = 1; number <= one.getValue(); number++) exact.add(number);
                if (!counts.equals(exact)) throw new AssertionError(one.getKey() + " was counted " + counts);
            }
        } finally {
            process.destroyForcibly().waitFor();
        }
    }

    static void write(String topic, Random random, Map<String, Long> wanted) {
        Map<String, Object> config = Map.of("bootstrap.servers", BOOTSTRAP, "acks", "all");
        try (KafkaProducer<String, String> producer =
                 new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            for (int line = 0; line < LINES_PER_PART; line++) {
                List<String> words = new ArrayList<>();
                for (int word = 0; word < 5; word++) words.add("w" + random.nextInt(20));
                words.forEach(word -> wanted.merge(word, 1L, Long::sum));
                producer.send(new ProducerRecord<>(topic, line % 2, null, String.join(" ", words)));
            }
        }
    }

    interface Enough {
        boolean is(Map<String, List<Long>> seen);
    }

    static long total(Map<String, Long> wanted) {
        return wanted.values().stream().mapToLong(Long::longValue).sum();
    }

    static long count(Map<String, List<Long>> seen) {
        return seen.values().stream().mapToLong(List::size).sum();
    }

    /** What a consumer of committed data reads of the output from its beginning, as soon as it is enough. */
    static Map<String, List<Long>> await(String topic, Enough enough, String what) {
        Map<String, List<Long>> seen = new HashMap<>();
        Map<String, Object> config = Map.of("bootstrap.servers", BOOTSTRAP, "isolation.level", "read_committed");
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS_MAX);
        try (KafkaConsumer<String, Long> consumer =
                 new KafkaConsumer<>(config, new StringDeserializer(), new LongDeserializer())) {
            List<TopicPartition> places = List.of(new TopicPartition(topic, 0), new TopicPartition(topic, 1));
            consumer.assign(places);
            consumer.seekToBeginning(places);
            while (!enough.is(seen)) {
                if (System.nanoTime() > deadline) throw new AssertionError("not in time: " + what + ": " + count(seen));
                for (ConsumerRecord<String, Long> one : consumer.poll(Duration.ofMillis(200))) {
                    seen.computeIfAbsent(one.key(), key -> new ArrayList<>()).add(one.value());
                }
            }
        }
        return seen;
    }
}
