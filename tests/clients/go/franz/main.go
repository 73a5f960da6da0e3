// Command franz drives franz-go against the endpoint in BOOTSTRAP. Partitions are consumed directly, except where groups are what is tested.
package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	. "ringlog.test/clients/suite"
)

var (
	ctx    = context.Background()
	client = open()
	admin  = kadm.NewClient(client)
	codecs = map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
)

func open(more ...kgo.Opt) *kgo.Client {
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(Bootstrap), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(1_048_588), kgo.ProducerLinger(50 * time.Millisecond)}, more...)...)
	Must(err, "client")
	return client
}

func leaders(topic string) int {
	found, err := admin.ListTopics(ctx, topic)
	Must(err, "list topics")
	count := 0
	for _, p := range found[topic].Partitions {
		if p.Err == nil && p.Leader >= 0 {
			count++
		}
	}
	return count
}

func create(label string, partitions int, configs map[string]*string) string {
	topic := TopicName("franz-" + label)
	_, err := admin.CreateTopic(ctx, int32(partitions), 1, configs, topic)
	Must(err, "create")
	Eventually(func() bool { return leaders(topic) == partitions }, topic+" in the metadata")
	// Kafka tells its metadata before its partitions answer.
	Eventually(func() bool {
		ends, err := admin.ListEndOffsets(ctx, topic)
		return err == nil && ends.Error() == nil && len(ends[topic]) == partitions
	}, topic+" has leaders that serve")
	return topic
}

func produce(topic string, partitions int, records []Rec, more ...kgo.Opt) []*kgo.Record {
	producer := open(more...)
	defer producer.Close()
	var out []*kgo.Record
	for p := range partitions {
		for _, r := range records {
			record := &kgo.Record{Topic: topic, Partition: int32(p), Key: r.Key, Value: r.Value, Timestamp: time.UnixMilli(r.TimestampMs)}
			for _, h := range r.Headers {
				record.Headers = append(record.Headers, kgo.RecordHeader{Key: h.Name, Value: h.Value})
			}
			out = append(out, record)
		}
	}
	Must(producer.ProduceSync(ctx, out...).FirstErr(), "produce")
	return out
}

func consumer(topic string, partition int, from kgo.Offset) *kgo.Client {
	return open(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {int32(partition): from}}))
}

func take(client *kgo.Client, count int) []Rec {
	var out []Rec
	limited, cancel := context.WithTimeout(ctx, WaitMax)
	defer cancel()
	for len(out) < count && limited.Err() == nil {
		fetches := client.PollFetches(limited)
		Must(fetches.Err(), "poll")
		fetches.EachRecord(func(r *kgo.Record) {
			rec := Rec{Key: r.Key, Value: r.Value, TimestampMs: r.Timestamp.UnixMilli(), Offset: r.Offset}
			for _, h := range r.Headers {
				rec.Headers = append(rec.Headers, Header{Name: h.Key, Value: h.Value})
			}
			out = append(out, rec)
		})
	}
	return out
}

func consume(topic string, partition int, from kgo.Offset, count int) []Rec {
	client := consumer(topic, partition, from)
	defer client.Close()
	return take(client, count)
}

func start() kgo.Offset { return kgo.NewOffset().AtStart() }

func administration() {
	hour := "3600000"
	topic := create("admin", Partitions, map[string]*string{"retention.ms": &hour})
	configs, err := admin.DescribeTopicConfigs(ctx, topic)
	Must(err, "describe configs")
	values := map[string]string{}
	for _, c := range configs[0].Configs {
		values[c.Key] = c.MaybeValue()
	}
	Equal(values["retention.ms"], hour, "retention.ms")
	Equal(values["segment.bytes"], "1073741824", "segment.bytes")
	added, err := admin.CreatePartitions(ctx, 2, topic)
	Must(err, "create partitions")
	Must(added.Error(), "create partitions")
	Eventually(func() bool { return leaders(topic) == Partitions+2 }, "new partitions")
	dirs, err := admin.DescribeAllLogDirs(ctx, kadm.TopicsSet{topic: {0: {}}})
	Must(err, "describe log dirs")
	for _, broker := range dirs {
		Must(broker.Error(), "describe log dirs")
	}
	brokers, err := admin.ListBrokers(ctx)
	Must(err, "list brokers")
	Equal(len(brokers), 1, "brokers")
}

func everyKind(codec string) {
	topic := create(codec, Partitions, nil)
	records := Matrix(int64(len(codec)))
	produce(topic, Partitions, records, kgo.ProducerBatchCompression(codecs[codec]))
	for p := range Partitions {
		Same(records, consume(topic, p, start(), len(records)), 0)
	}
}

func positions() {
	topic := create("positions", 1, nil)
	records := Matrix(7)
	produce(topic, 1, records, kgo.ProducerBatchCompression(kgo.SnappyCompression()))
	for from := 1; from < len(records); from++ {
		Same(records[from:], consume(topic, 0, kgo.NewOffset().At(int64(from)), len(records)-from), int64(from))
	}
	tail := consumer(topic, 0, kgo.NewOffset().At(int64(len(records))))
	defer tail.Close()
	limited, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	Equal(tail.PollFetches(limited).NumRecords(), 0, "records at the end")
	fresh := Numbered(1, time.Now().UnixMilli(), 0)
	produce(topic, 1, fresh)
	Same(fresh, take(tail, 1), int64(len(records)))
	ends, err := admin.ListEndOffsets(ctx, topic)
	Must(err, "end offsets")
	Equal(ends[topic][0].Offset, int64(len(records)+1), "end offset")
}

func timestamps(codec string) {
	topic := create("time", 1, nil)
	base := time.Now().UnixMilli() - 1_000_000
	records := Numbered(50, base, 10)
	produce(topic, 1, records, kgo.ProducerBatchCompression(codecs[codec]))
	for i := range records {
		for _, asked := range []int64{base + 10*int64(i), base + 10*int64(i) - 5} {
			found, err := admin.ListOffsetsAfterMilli(ctx, asked, topic)
			Must(err, "list offsets")
			Equal(found[topic][0].Offset, int64(i), "offset")
			Equal(found[topic][0].Timestamp, base+10*int64(i), "timestamp")
		}
	}
	got := consume(topic, 0, kgo.NewOffset().AfterMilli(base+205), 29)
	Same(records[21:], got, 21)
}

func idempotence() {
	topic := create("idem", Partitions, nil)
	records := Numbered(2000, time.Now().UnixMilli(), 1)
	for i, r := range produce(topic, Partitions, records, kgo.ProducerBatchMaxBytes(2000), kgo.ProducerLinger(0)) {
		Equal(r.Offset, int64(i%len(records)), "acknowledged offset")
	}
	for p := range Partitions {
		Same(records, consume(topic, p, start(), len(records)), 0)
	}
}

func transactions() {
	topic := create("txn", 1, nil)
	id := topic + "-id"
	producer := open(kgo.TransactionalID(id))
	defer producer.Close()
	var want []string
	for i := range 6 {
		Must(producer.BeginTransaction(), "begin")
		value := "v" + string(rune('0'+i))
		Must(producer.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: 0, Value: []byte(value)}).FirstErr(), "produce")
		commit := i%2 == 1
		if commit {
			want = append(want, value)
		}
		Must(producer.EndTransaction(ctx, kgo.TransactionEndTry(commit)), "end")
	}
	reader := open(kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: start()}}))
	defer reader.Close()
	for i, r := range take(reader, len(want)) {
		Equal(string(r.Value), want[i], "committed value")
	}
	described, err := admin.DescribeTransactions(ctx, id)
	Must(err, "describe")
	Equal(described[id].State, "CompleteCommit", "state")
}

func acknowledgements() {
	topic := create("acks", 1, nil)
	var sent []Rec
	for _, acks := range []kgo.Acks{kgo.NoAck(), kgo.LeaderAck(), kgo.AllISRAcks()} {
		records := Numbered(100, time.Now().UnixMilli(), 1)
		produce(topic, 1, records, kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite())
		sent = append(sent, records...)
		Same(sent, consume(topic, 0, start(), len(sent)), 0)
	}
}

// Two members share a topic; one leaves, the other goes on where both had committed.
func group(balancer kgo.GroupBalancer) {
	topic := create("group", 4, nil)
	records := Numbered(50, time.Now().UnixMilli(), 1)
	produce(topic, 4, records)
	member := func() *kgo.Client {
		return open(kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic), kgo.Balancers(balancer),
			kgo.HeartbeatInterval(300*time.Millisecond), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	}
	one := member()
	Equal(len(take(one, 200)), 200, "records of one member")
	Must(one.CommitUncommittedOffsets(ctx), "commit")
	two := member()
	described := func(count int) func() bool {
		return func() bool {
			found, err := admin.DescribeGroups(ctx, topic)
			group := found[topic]
			return err == nil && group.State == "Stable" && len(group.Members) == count &&
				len(group.AssignedPartitions()[topic]) == 4
		}
	}
	poll, cancel := context.WithCancel(ctx)
	for _, client := range []*kgo.Client{one, two} {
		go func() {
			for poll.Err() == nil {
				client.PollFetches(poll)
			}
		}()
	}
	Eventually(described(2), "two members")
	two.Close()
	Eventually(described(1), "one member")
	cancel()
	one.Close()
	offsets, err := admin.FetchOffsets(ctx, topic)
	Must(err, "fetch offsets")
	for p := range int32(4) {
		found, _ := offsets.Lookup(topic, p)
		Equal(found.At, int64(len(records)), "committed")
	}
	Eventually(func() bool {
		deleted, err := admin.DeleteGroups(ctx, topic)
		return err == nil && deleted[topic].Err == nil
	}, "the group is deleted")
}

func deletion() {
	topic := create("gone", Partitions, nil)
	produce(topic, Partitions, Matrix(3))
	_, err := admin.DeleteTopic(ctx, topic)
	Must(err, "delete")
	Eventually(func() bool { return leaders(topic) == 0 }, "topic gone")
}

func main() {
	Test("franz-go", "admin: create, describe, configs, add partitions, log dirs, brokers", administration)
	for _, codec := range Codecs {
		Test("franz-go", "every kind of record, compression "+codec, func() { everyKind(codec) })
	}
	Test("franz-go", "from the middle, from the end, then a new record", positions)
	for _, codec := range []string{"none", "zstd"} {
		Test("franz-go", "offsets by timestamp are exact inside a batch, compression "+codec, func() { timestamps(codec) })
	}
	Test("franz-go", "idempotent producer (its default)", idempotence)
	Test("franz-go", "transactions: commit, abort, read committed, describe", transactions)
	Test("franz-go", "acks 0, 1 and all", acknowledgements)
	Test("franz-go", "consumer group, cooperative sticky", func() { group(kgo.CooperativeStickyBalancer()) })
	Test("franz-go", "consumer group, range", func() { group(kgo.RangeBalancer()) })
	Test("franz-go", "delete a topic", deletion)
	Finish()
}
