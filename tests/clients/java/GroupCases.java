// Consumer groups of Apache's Java client: both protocols, static members, the change from one protocol to the other.

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicPartition;

final class GroupCases {
    static final int PARTITIONS = 4;
    static final int RECORDS = 50;
    static final Map<String, String> CLASSIC_RANGE = Map.of("group.protocol", "classic",
        "partition.assignment.strategy", "org.apache.kafka.clients.consumer.RangeAssignor");
    static final Map<String, String> COOPERATIVE = Map.of("group.protocol", "classic",
        "partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
    static final Map<String, String> CONSUMER = Map.of("group.protocol", "consumer");

    static void run() {
        ClientSuite.test("classic group, range: two members share, one leaves, offsets go on",
            () -> sharing(CLASSIC_RANGE, GroupType.CLASSIC));
        ClientSuite.test("classic group, cooperative sticky: two members share, one leaves, offsets go on",
            () -> sharing(COOPERATIVE, GroupType.CLASSIC));
        ClientSuite.test("consumer protocol (KIP-848): two members share, one leaves, offsets go on",
            () -> sharing(CONSUMER, GroupType.CONSUMER));
        ClientSuite.test("consumer protocol: a subscription by expression", GroupCases::pattern);
        ClientSuite.test("static members come back without a rebalance, both protocols", GroupCases::statics);
        ClientSuite.test("a classic group becomes a consumer group and back, member by member", GroupCases::migration);
    }

    static KafkaConsumer<byte[], byte[]> member(String group, Map<String, String> more) {
        Map<String, String> config = new HashMap<>(Map.of("group.id", group, "auto.offset.reset", "earliest"));
        if (!"consumer".equals(more.get("group.protocol"))) {
            config.putAll(Map.of("session.timeout.ms", "10000", "heartbeat.interval.ms", "300"));
        }
        config.putAll(more);
        return ClientSuite.consumer(config);
    }

    static String name(String label) {
        return "g-java-" + label + "-" + UUID.randomUUID();
    }

    static void fill(String topic, int partitions) throws Exception {
        List<ClientSuite.Rec> records = new ArrayList<>();
        for (int i = 0; i < RECORDS; i++) {
            records.add(new ClientSuite.Rec(null, ClientSuite.bytes("v" + i), 1_000_000L + i, ClientSuite.NO_HEADERS));
        }
        ClientSuite.produce(topic, partitions, records, Map.of());
    }

    // Polls all members until what they read and own satisfies the check.
    @SafeVarargs
    static void pollUntil(ClientSuite.Check check, Set<String> seen, String what, KafkaConsumer<byte[], byte[]>... members)
            throws Exception {
        ClientSuite.eventually(() -> {
            for (KafkaConsumer<byte[], byte[]> member : members) {
                for (ConsumerRecord<byte[], byte[]> r : member.poll(Duration.ofMillis(50))) {
                    seen.add(r.topic() + "-" + r.partition() + "@" + r.offset());
                }
            }
            return check.holds();
        }, what);
    }

    static void sharing(Map<String, String> protocol, GroupType type) throws Exception {
        String topic = ClientSuite.create("group", PARTITIONS, Map.of());
        String group = name("share");
        fill(topic, PARTITIONS);
        Set<String> seen = new HashSet<>();
        KafkaConsumer<byte[], byte[]> one = member(group, protocol);
        KafkaConsumer<byte[], byte[]> two = member(group, protocol);
        one.subscribe(List.of(topic));
        pollUntil(() -> seen.size() == PARTITIONS * RECORDS, seen, "all records, one member", one);
        one.commitSync();
        two.subscribe(List.of(topic));
        pollUntil(() -> one.assignment().size() == PARTITIONS / 2 && two.assignment().size() == PARTITIONS / 2, seen,
            "half of the partitions each", one, two);
        Set<TopicPartition> both = new HashSet<>(one.assignment());
        both.addAll(two.assignment());
        ClientSuite.equal(both.size(), PARTITIONS, "partitions of both");
        Map<TopicPartition, OffsetAndMetadata> mine = new HashMap<>();
        for (TopicPartition p : two.assignment()) mine.put(p, new OffsetAndMetadata(RECORDS - 5, "left off"));
        two.commitSync(mine);
        ConsumerGroupDescription described =
            ClientSuite.admin.describeConsumerGroups(List.of(group)).all().get().get(group);
        ClientSuite.equal(described.members().size(), 2, "described members");
        ClientSuite.equal(described.type(), type, "type");
        two.close();
        seen.clear();
        int again = mine.size() * 5;
        pollUntil(() -> one.assignment().size() == PARTITIONS && seen.size() >= again, seen, "the rest comes to one", one);
        ClientSuite.equal(seen.size(), again, "records from what the other had committed");
        ClientSuite.equal(one.committed(mine.keySet()), mine, "committed offsets with their metadata");
        one.close();
        ClientSuite.eventually(() -> ClientSuite.admin.describeConsumerGroups(List.of(group)).all().get().get(group)
            .groupState() == GroupState.EMPTY, "an empty group");
        List<String> listed = new ArrayList<>();
        for (GroupListing found : ClientSuite.admin.listGroups().all().get()) listed.add(found.groupId());
        ClientSuite.check(listed.contains(group), "not listed");
        ClientSuite.admin.deleteConsumerGroups(List.of(group)).all().get();
    }

    static void pattern() throws Exception {
        String one = ClientSuite.create("pattern", 1, Map.of());
        String prefix = one.substring(0, one.length() - 4);
        fill(one, 1);
        Set<String> seen = new HashSet<>();
        try (KafkaConsumer<byte[], byte[]> member = member(name("pattern"), CONSUMER)) {
            member.subscribe(new SubscriptionPattern(prefix + ".*"));
            pollUntil(() -> seen.size() == RECORDS, seen, "records of the topic that matches", member);
        }
    }

    static void statics() throws Exception {
        for (Map<String, String> protocol : List.of(COOPERATIVE, CONSUMER)) {
            String topic = ClientSuite.create("static", PARTITIONS, Map.of());
            String group = name("static");
            Map<String, String> fixed = new HashMap<>(protocol);
            fixed.put("group.instance.id", "instance-1");
            Set<String> seen = new HashSet<>();
            KafkaConsumer<byte[], byte[]> other = member(group, protocol);
            other.subscribe(List.of(topic));
            KafkaConsumer<byte[], byte[]> first = member(group, fixed);
            first.subscribe(List.of(topic));
            pollUntil(() -> first.assignment().size() == 2 && other.assignment().size() == 2, seen, "two each", first, other);
            Set<TopicPartition> had = new HashSet<>(first.assignment());
            int generation = other.groupMetadata().generationId();
            first.close();
            KafkaConsumer<byte[], byte[]> second = member(group, fixed);
            second.subscribe(List.of(topic));
            pollUntil(() -> second.assignment().size() == 2, seen, "the same again", second, other);
            ClientSuite.equal(new HashSet<>(second.assignment()), had, "partitions of the static member");
            ClientSuite.equal(other.groupMetadata().generationId(), generation, "generation of the other");
            second.close();
            other.close();
        }
    }

    static void migration() throws Exception {
        String topic = ClientSuite.create("migrate", PARTITIONS, Map.of());
        String group = name("migrate");
        Set<String> seen = new HashSet<>();
        KafkaConsumer<byte[], byte[]> old = member(group, COOPERATIVE);
        old.subscribe(List.of(topic));
        pollUntil(() -> old.assignment().size() == PARTITIONS, seen, "everything to the old one", old);
        KafkaConsumer<byte[], byte[]> fresh = member(group, CONSUMER);
        fresh.subscribe(List.of(topic));
        pollUntil(() -> old.assignment().size() == 2 && fresh.assignment().size() == 2, seen, "two each", old, fresh);
        ClientSuite.equal(ClientSuite.admin.describeConsumerGroups(List.of(group)).all().get().get(group).type(),
            GroupType.CONSUMER, "type while there is a new member");
        fill(topic, PARTITIONS);
        pollUntil(() -> seen.size() == PARTITIONS * RECORDS, seen, "records for both", old, fresh);
        fresh.close();
        pollUntil(() -> old.assignment().size() == PARTITIONS, seen, "everything to the old one again", old);
        ClientSuite.equal(ClientSuite.admin.describeConsumerGroups(List.of(group)).all().get().get(group).type(),
            GroupType.CLASSIC, "type after the new member left");
        old.close();
    }
}
