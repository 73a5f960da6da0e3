// Apache's Java client and tools and share groups (KIP-932), against the endpoint in BOOTSTRAP. Two phases, `before` and
// `after`, with a kill of the broker between them; the second argument is a file that carries what was acknowledged.
// Output: `ok - NAME`, `not ok - NAME: why`, one line a case; scripts/test counts them.

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.admin.ListShareGroupOffsetsSpec;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.ShareGroupDescription;
import org.apache.kafka.clients.admin.SharePartitionOffsetInfo;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.Exit;
import org.apache.kafka.tools.consumer.ConsoleShareConsumer;
import org.apache.kafka.tools.consumer.group.ShareGroupCommand;

public final class ShareSuite {
    static final String BOOTSTRAP = System.getenv("BOOTSTRAP");
    static final int WAIT_SECONDS_MAX = 60;
    static final Duration SHORT = Duration.ofMillis(200);
    // The names of the kill's topic and group are the same in both phases.
    static final String KILLED = "share-killed";
    static Admin admin;
    static int failed;

    interface Body {
        void run() throws Exception;
    }

    interface Check {
        boolean holds() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        admin = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP));
        Path file = Path.of(args[1]);
        if (args[0].equals("before")) {
            test("three members share one partition, every record goes to one of them", ShareSuite::sharing);
            test("accept, release and reject, record by record", ShareSuite::explicit);
            test("a lock that ends gives the record to another, one that is renewed does not", ShareSuite::locks);
            test("admin: list, describe, offsets, alter, delete", ShareSuite::administration);
            test("kafka-share-groups and kafka-console-share-consumer", ShareSuite::tools);
            test("before the kill: half of the records are acknowledged", () -> beforeKill(file));
        } else {
            test("after the kill: the other half comes, and nothing else", () -> afterKill(file));
        }
        System.out.flush();
        Runtime.getRuntime().halt(failed == 0 ? 0 : 1);
    }

    static void test(String name, Body body) {
        try {
            body.run();
            System.out.println("ok - java share groups: " + name);
        } catch (Throwable error) {
            failed++;
            System.out.println("not ok - java share groups: " + name + ": " + error.toString().replaceAll("\\s+", " "));
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
            Thread.sleep(20);
        }
    }

    static String name(String label) {
        return "share-" + label + "-" + UUID.randomUUID();
    }

    /** A topic of one partition, and a group of the same name that begins at its first record. */
    static void create(String name, Map<String, String> more) throws Exception {
        admin.createTopics(List.of(new NewTopic(name, 1, (short) 1))).all().get();
        Map<String, String> configs = new HashMap<>(more);
        configs.put("share.auto.offset.reset", "earliest");
        List<AlterConfigOp> changes = new ArrayList<>();
        configs.forEach((k, v) -> changes.add(new AlterConfigOp(new ConfigEntry(k, v), AlterConfigOp.OpType.SET)));
        admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.GROUP, name), changes)).all().get();
    }

    static void fill(String topic, int from, int to) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", BOOTSTRAP, "batch.size", 200, "linger.ms", 1);
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            for (int i = from; i < to; i++) producer.send(new ProducerRecord<>(topic, "k" + i, "v" + i));
            producer.flush();
        }
    }

    static KafkaShareConsumer<String, String> member(String group, Map<String, Object> more) {
        Map<String, Object> config = new HashMap<>(more);
        config.put("bootstrap.servers", BOOTSTRAP);
        config.put("group.id", group);
        var consumer = new KafkaShareConsumer<>(config, new StringDeserializer(), new StringDeserializer());
        consumer.subscribe(List.of(group));
        return consumer;
    }

    static final Map<String, Object> EXPLICIT = Map.of("share.acknowledgement.mode", "explicit");

    static void commit(KafkaShareConsumer<String, String> consumer) {
        consumer.commitSync().forEach((place, error) -> {
            if (error.isPresent()) throw error.get();
        });
    }

    static void sharing() throws Exception {
        String name = name("three");
        create(name, Map.of());
        fill(name, 0, 300);
        List<KafkaShareConsumer<String, String>> members = new ArrayList<>();
        for (int i = 0; i < 3; i++) members.add(member(name, Map.of("max.poll.records", 10)));
        Set<Long> seen = new TreeSet<>();
        Set<Integer> busy = new HashSet<>();
        eventually(() -> {
            for (int i = 0; i < members.size(); i++) {
                for (ConsumerRecord<String, String> record : members.get(i).poll(SHORT)) {
                    check(seen.add(record.offset()), "offset " + record.offset() + " came twice");
                    equal(record.value(), "v" + record.offset(), "value");
                    equal(record.deliveryCount().get(), (short) 1, "delivery count");
                    busy.add(i);
                }
            }
            return seen.size() == 300;
        }, "all records");
        check(busy.size() > 1, "members that got records: " + busy);
        for (var member : members) commit(member);
        for (var member : members) member.close();
        equal(offset(name, name), 300L, "start offset");
    }

    static void explicit() throws Exception {
        String name = name("explicit");
        create(name, Map.of());
        fill(name, 0, 9);
        Map<Long, Short> second = new HashMap<>();
        try (var consumer = member(name, EXPLICIT)) {
            Set<Long> first = new TreeSet<>();
            eventually(() -> {
                for (ConsumerRecord<String, String> record : consumer.poll(SHORT)) {
                    boolean again = !first.add(record.offset());
                    if (again) second.put(record.offset(), record.deliveryCount().get());
                    int kind = (int) (record.offset() % 3);
                    AcknowledgeType released = again ? AcknowledgeType.ACCEPT : AcknowledgeType.RELEASE;
                    consumer.acknowledge(record,
                        kind == 0 ? AcknowledgeType.ACCEPT : kind == 1 ? released : AcknowledgeType.REJECT);
                }
                commit(consumer);
                return second.size() == 3;
            }, "released records come again");
        }
        equal(second, Map.of(1L, (short) 2, 4L, (short) 2, 7L, (short) 2), "what came again, and its delivery counts");
        equal(offset(name, name), 9L, "start offset");
    }

    static void locks() throws Exception {
        String name = name("locks");
        create(name, Map.of("share.record.lock.duration.ms", "2000"));
        fill(name, 0, 1);
        try (var holder = member(name, EXPLICIT); var other = member(name, EXPLICIT)) {
            // Renewed again and again, the record stays where it is for longer than a lock lasts.
            int[] renewed = {0};
            long[] until = {0};
            eventually(() -> {
                for (var record : holder.poll(SHORT)) {
                    equal(record.deliveryCount().get(), (short) 1, "delivery count of a renewed record");
                    holder.acknowledge(record, AcknowledgeType.RENEW);
                    if (renewed[0]++ == 0) until[0] = System.nanoTime() + TimeUnit.SECONDS.toNanos(4);
                }
                commit(holder);
                check(other.poll(Duration.ofMillis(10)).isEmpty(), "a renewed record went to another member");
                return renewed[0] > 1 && System.nanoTime() > until[0];
            }, "the record is renewed");
            equal(holder.acquisitionLockTimeoutMs().get(), 2000, "lock time-out");
            // Nobody renews it any more.
            Map<Long, Short> taken = new HashMap<>();
            eventually(() -> {
                for (var record : other.poll(SHORT)) {
                    taken.put(record.offset(), record.deliveryCount().get());
                    other.acknowledge(record);
                }
                return !taken.isEmpty();
            }, "the forgotten record goes to another member");
            equal(taken, Map.of(0L, (short) 2), "what went to another member");
            commit(other);
        }
        equal(offset(name, name), 1L, "start offset");
    }

    static long offset(String group, String topic) throws Exception {
        SharePartitionOffsetInfo info = info(group, topic);
        return info == null ? -1 : info.startOffset();
    }

    static SharePartitionOffsetInfo info(String group, String topic) throws Exception {
        var spec = Map.of(group, new ListShareGroupOffsetsSpec());
        return admin.listShareGroupOffsets(spec).partitionsToOffsetInfo(group).get().get(new TopicPartition(topic, 0));
    }

    static void administration() throws Exception {
        String name = name("admin");
        create(name, Map.of());
        fill(name, 0, 10);
        try (var consumer = member(name, EXPLICIT)) {
            List<ConsumerRecord<String, String>> got = new ArrayList<>();
            eventually(() -> {
                consumer.poll(SHORT).forEach(got::add);
                return got.size() == 10;
            }, "the records");
            for (int i : new int[] {0, 1, 5}) consumer.acknowledge(got.get(i), AcknowledgeType.ACCEPT);
            for (int i : new int[] {2, 3, 4, 6, 7, 8, 9}) consumer.acknowledge(got.get(i), AcknowledgeType.RELEASE);
            commit(consumer);
            ShareGroupDescription described = admin.describeShareGroups(List.of(name)).all().get().get(name);
            equal(described.groupState(), GroupState.STABLE, "state");
            equal(described.members().size(), 1, "members");
            equal(described.members().iterator().next().assignment().topicPartitions(),
                Set.of(new TopicPartition(name, 0)), "assignment");
        }
        SharePartitionOffsetInfo info = info(name, name);
        equal(info.startOffset(), 2L, "start offset");
        equal(info.lag().get(), 7L, "lag");
        var listed = admin.listGroups(ListGroupsOptions.forShareGroups()).all().get();
        check(listed.stream().anyMatch(g -> g.groupId().equals(name) && g.type().equals(java.util.Optional.of(GroupType.SHARE))),
            "listed: " + listed);
        admin.alterShareGroupOffsets(name, Map.of(new TopicPartition(name, 0), 8L)).all().get();
        equal(offset(name, name), 8L, "start offset after it was set");
        admin.deleteShareGroupOffsets(name, Set.of(name)).all().get();
        equal(info(name, name) == null, true, "offsets are gone");
        admin.deleteShareGroups(List.of(name)).all().get();
        check(admin.listGroups(ListGroupsOptions.forShareGroups()).all().get().stream()
            .noneMatch(g -> g.groupId().equals(name)), "the group is gone");
    }

    /** Runs a tool in this process; what it printed. */
    static String tool(Body body) throws Exception {
        PrintStream before = System.out;
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        Exit.setExitProcedure((status, message) -> {
            if (status != 0) throw new IllegalStateException("exit " + status + ": " + message);
        });
        try {
            System.setOut(new PrintStream(out, true, StandardCharsets.UTF_8));
            body.run();
        } finally {
            System.setOut(before);
        }
        return out.toString(StandardCharsets.UTF_8);
    }

    static String groups(String... more) throws Exception {
        List<String> args = new ArrayList<>(List.of("--bootstrap-server", BOOTSTRAP));
        args.addAll(List.of(more));
        return tool(() -> ShareGroupCommand.main(args.toArray(String[]::new)));
    }

    static void tools() throws Exception {
        String name = name("tools");
        create(name, Map.of());
        fill(name, 0, 5);
        String consumed = tool(() -> ConsoleShareConsumer.main(new String[] {"--bootstrap-server", BOOTSTRAP,
            "--topic", name, "--group", name, "--max-messages", "5", "--timeout-ms", "30000"}));
        equal(consumed.lines().filter(line -> line.matches("v[0-4]")).count(), 5L, "records printed: " + consumed);
        check(groups("--list").contains(name), "--list");
        eventually(() -> groups("--describe", "--group", name, "--state").contains("Empty"), "--describe --state");
        String offsets = groups("--describe", "--group", name, "--offsets");
        check(offsets.lines().anyMatch(line -> line.matches(name + "\\s+" + name + "\\s+0\\s+5\\s+0\\s*")),
            "--describe --offsets: " + offsets);
        String reset = groups("--reset-offsets", "--group", name, "--topic", name, "--to-earliest", "--execute");
        check(reset.contains(name), "--reset-offsets: " + reset);
        equal(offset(name, name), 0L, "start offset after the reset");
        String deleted = groups("--delete-offsets", "--group", name, "--topic", name);
        check(deleted.contains("Successful"), "--delete-offsets: " + deleted);
        deleted = groups("--delete", "--group", name);
        check(deleted.contains("successful"), "--delete: " + deleted);
        check(!groups("--list").contains(name), "--list after --delete");
    }

    static void beforeKill(Path file) throws Exception {
        create(KILLED, Map.of());
        fill(KILLED, 0, 200);
        List<String> done = new ArrayList<>();
        // Not closed: its session and its locks die with the broker.
        var consumer = member(KILLED, EXPLICIT);
        eventually(() -> {
            for (ConsumerRecord<String, String> record : consumer.poll(SHORT)) {
                if (record.offset() % 2 == 0) {
                    consumer.acknowledge(record, AcknowledgeType.ACCEPT);
                    done.add(record.value());
                } else {
                    consumer.acknowledge(record, AcknowledgeType.RELEASE);
                }
            }
            commit(consumer);
            return done.size() == 100;
        }, "half of the records");
        Files.write(file, done);
    }

    static void afterKill(Path file) throws Exception {
        Set<String> done = new HashSet<>(Files.readAllLines(file));
        equal(done.size(), 100, "acknowledged before");
        Set<String> rest = new HashSet<>();
        try (var consumer = member(KILLED, Map.of())) {
            eventually(() -> {
                for (ConsumerRecord<String, String> record : consumer.poll(SHORT)) {
                    check(!done.contains(record.value()), record.value() + " was acknowledged before the kill");
                    rest.add(record.value());
                }
                return rest.size() == 100;
            }, "the other half");
            commit(consumer);
            for (int i = 0; i < 5; i++) check(consumer.poll(SHORT).isEmpty(), "nothing else comes");
        }
        equal(offset(KILLED, KILLED), 200L, "start offset");
    }
}
