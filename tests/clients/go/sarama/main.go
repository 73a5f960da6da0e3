// Command sarama drives Sarama against the endpoint in BOOTSTRAP. Its plain partition consumer, and its groups.
package main

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"

	. "ringlog.test/clients/suite"
)

var (
	admin  = openAdmin()
	codecs = map[string]sarama.CompressionCodec{"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP,
		"snappy": sarama.CompressionSnappy, "lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD}
)

func config(change func(*sarama.Config)) *sarama.Config {
	c := sarama.NewConfig()
	c.ClientID = "sarama-suite"
	c.Version = sarama.MaxVersion
	c.Producer.Partitioner = sarama.NewManualPartitioner
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.MaxMessageBytes = 1_048_500
	c.Producer.Flush.Frequency = 20 * time.Millisecond
	if change != nil {
		change(c)
	}
	return c
}

func openAdmin() sarama.ClusterAdmin {
	admin, err := sarama.NewClusterAdmin([]string{Bootstrap}, config(nil))
	Must(err, "admin")
	return admin
}

func leaders(topic string) int {
	found, err := admin.DescribeTopics([]string{topic})
	Must(err, "describe")
	count := 0
	for _, p := range found[0].Partitions {
		if p.Err == sarama.ErrNoError && p.Leader >= 0 {
			count++
		}
	}
	return count
}

func create(label string, partitions int, configs map[string]*string) string {
	topic := TopicName("sarama-" + label)
	Must(admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: int32(partitions), ReplicationFactor: 1, ConfigEntries: configs}, false), "create")
	Eventually(func() bool { return leaders(topic) == partitions }, topic+" in the metadata")
	client, err := sarama.NewClient([]string{Bootstrap}, config(nil))
	Must(err, "client")
	defer client.Close()
	// Kafka tells its metadata before its partitions answer.
	for p := range partitions {
		Eventually(func() bool { _, err := client.GetOffset(topic, int32(p), sarama.OffsetNewest); return err == nil }, "leaders that serve")
	}
	return topic
}

func encoder(b []byte) sarama.Encoder {
	if b == nil {
		return nil
	}
	return sarama.ByteEncoder(b)
}

func produce(topic string, partitions int, records []Rec, change func(*sarama.Config)) []*sarama.ProducerMessage {
	producer, err := sarama.NewSyncProducer([]string{Bootstrap}, config(change))
	Must(err, "producer")
	defer producer.Close()
	var out []*sarama.ProducerMessage
	for p := range partitions {
		for _, r := range records {
			m := &sarama.ProducerMessage{Topic: topic, Partition: int32(p), Key: encoder(r.Key), Value: encoder(r.Value), Timestamp: time.UnixMilli(r.TimestampMs)}
			for _, h := range r.Headers {
				m.Headers = append(m.Headers, sarama.RecordHeader{Key: []byte(h.Name), Value: h.Value})
			}
			out = append(out, m)
		}
	}
	Must(producer.SendMessages(out), "produce")
	return out
}

func consumer(topic string, partition int, from int64, change func(*sarama.Config)) (sarama.PartitionConsumer, func()) {
	whole, err := sarama.NewConsumer([]string{Bootstrap}, config(change))
	Must(err, "consumer")
	one, err := whole.ConsumePartition(topic, int32(partition), from)
	Must(err, "consume partition")
	return one, func() { one.Close(); whole.Close() }
}

func take(consumer sarama.PartitionConsumer, count int, wait time.Duration) []Rec {
	var out []Rec
	deadline := time.After(wait)
	for len(out) < count {
		select {
		case m := <-consumer.Messages():
			rec := Rec{Key: m.Key, Value: m.Value, TimestampMs: m.Timestamp.UnixMilli(), Offset: m.Offset}
			for _, h := range m.Headers {
				rec.Headers = append(rec.Headers, Header{Name: string(h.Key), Value: h.Value})
			}
			out = append(out, rec)
		case <-deadline:
			return out
		}
	}
	return out
}

func consume(topic string, partition int, from int64, count int) []Rec {
	one, closeAll := consumer(topic, partition, from, nil)
	defer closeAll()
	return take(one, count, WaitMax)
}

func administration() {
	hour := "3600000"
	topic := create("admin", Partitions, map[string]*string{"retention.ms": &hour})
	entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic})
	Must(err, "describe config")
	values := map[string]string{}
	for _, e := range entries {
		values[e.Name] = e.Value
	}
	Equal(values["retention.ms"], hour, "retention.ms")
	Equal(values["segment.bytes"], "1073741824", "segment.bytes")
	Must(admin.CreatePartitions(topic, Partitions+2, nil, false), "create partitions")
	Eventually(func() bool { return leaders(topic) == Partitions+2 }, "new partitions")
	brokers, _, err := admin.DescribeCluster()
	Must(err, "describe cluster")
	Equal(len(brokers), 1, "brokers")
}

func everyKind(codec string) {
	topic := create(codec, Partitions, nil)
	records := Matrix(int64(len(codec)))
	produce(topic, Partitions, records, func(c *sarama.Config) { c.Producer.Compression = codecs[codec] })
	for p := range Partitions {
		Same(records, consume(topic, p, sarama.OffsetOldest, len(records)), 0)
	}
}

func positions() {
	topic := create("positions", 1, nil)
	records := Matrix(7)
	produce(topic, 1, records, func(c *sarama.Config) { c.Producer.Compression = sarama.CompressionLZ4 })
	for from := 1; from < len(records); from++ {
		Same(records[from:], consume(topic, 0, int64(from), len(records)-from), int64(from))
	}
	tail, closeAll := consumer(topic, 0, sarama.OffsetNewest, nil)
	defer closeAll()
	Equal(len(take(tail, 1, 500*time.Millisecond)), 0, "records at the end")
	fresh := Numbered(1, time.Now().UnixMilli(), 0)
	produce(topic, 1, fresh, nil)
	Same(fresh, take(tail, 1, WaitMax), int64(len(records)))
}

func timestamps(codec string) {
	topic := create("time", 1, nil)
	base := time.Now().UnixMilli() - 1_000_000
	records := Numbered(50, base, 10)
	produce(topic, 1, records, func(c *sarama.Config) { c.Producer.Compression = codecs[codec] })
	client, err := sarama.NewClient([]string{Bootstrap}, config(nil))
	Must(err, "client")
	defer client.Close()
	for i := range records {
		for _, asked := range []int64{base + 10*int64(i), base + 10*int64(i) - 5} {
			found, err := client.GetOffset(topic, 0, asked)
			Must(err, "offset by time")
			Equal(found, int64(i), "offset")
		}
	}
}

func idempotence() {
	topic := create("idem", Partitions, nil)
	records := Numbered(500, time.Now().UnixMilli(), 1)
	sent := produce(topic, Partitions, records, func(c *sarama.Config) {
		c.Producer.Idempotent = true
		c.Net.MaxOpenRequests = 1
		c.Producer.Flush.MaxMessages = 50
	})
	for i, m := range sent {
		Equal(m.Offset, int64(i%len(records)), "acknowledged offset")
	}
	for p := range Partitions {
		Same(records, consume(topic, p, sarama.OffsetOldest, len(records)), 0)
	}
}

func acknowledgements() {
	topic := create("acks", 1, nil)
	var sent []Rec
	for _, acks := range []sarama.RequiredAcks{sarama.NoResponse, sarama.WaitForLocal, sarama.WaitForAll} {
		records := Numbered(100, time.Now().UnixMilli(), 1)
		produce(topic, 1, records, func(c *sarama.Config) { c.Producer.RequiredAcks = acks })
		sent = append(sent, records...)
		Same(sent, consume(topic, 0, sarama.OffsetOldest, len(sent)), 0)
	}
}

// A Sarama whose version is pinned, with and without asking for the broker's versions first: records go through, or the
// error is one that it understands. A closed socket (io.EOF) is what made other brokers look broken.
func pinned(version sarama.KafkaVersion, ask bool) {
	change := func(c *sarama.Config) { c.Version, c.ApiVersionsRequest = version, ask }
	topic := create("pinned", 1, nil)
	records := Numbered(10, time.Now().UnixMilli(), 1)
	producer, err := sarama.NewSyncProducer([]string{Bootstrap}, config(change))
	if err == nil {
		defer producer.Close()
		_, _, err = producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: encoder(records[0].Value)})
	}
	if err == nil {
		one, closeAll := consumer(topic, 0, sarama.OffsetOldest, change)
		defer closeAll()
		Equal(len(take(one, 1, WaitMax)), 1, "records")
		return
	}
	var code sarama.KError
	if errors.Is(err, io.EOF) || !errors.As(err, &code) {
		panic("an error Sarama cannot explain: " + err.Error())
	}
}

// handler counts what a member of a group reads, and commits it.
type handler struct {
	read     atomic.Int64
	sessions atomic.Int64
	claims   atomic.Int64
}

func (h *handler) Setup(session sarama.ConsumerGroupSession) error {
	h.sessions.Add(1)
	count := 0
	for _, partitions := range session.Claims() {
		count += len(partitions)
	}
	h.claims.Store(int64(count))
	return nil
}
func (h *handler) Cleanup(session sarama.ConsumerGroupSession) error { session.Commit(); return nil }
func (h *handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			h.read.Add(1)
			session.MarkMessage(message, "seen")
		case <-session.Context().Done():
			return nil
		}
	}
}

func group() {
	topic := create("group", 4, nil)
	records := Numbered(50, time.Now().UnixMilli(), 1)
	produce(topic, 4, records, nil)
	join := func() (*handler, func()) {
		member, err := sarama.NewConsumerGroup([]string{Bootstrap}, topic, config(func(c *sarama.Config) {
			c.Consumer.Offsets.Initial = sarama.OffsetOldest
			c.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
			c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategySticky()}
		}))
		Must(err, "group")
		h := &handler{}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				if err := member.Consume(ctx, []string{topic}, h); err != nil && ctx.Err() == nil {
					return
				}
			}
		}()
		return h, func() { cancel(); <-done; member.Close() }
	}
	one, leaveOne := join()
	Eventually(func() bool { return one.read.Load() == 200 }, "all records")
	two, leaveTwo := join()
	Eventually(func() bool { return one.claims.Load() == 2 && two.claims.Load() == 2 }, "two partitions each")
	produce(topic, 4, records, nil)
	Eventually(func() bool { return one.read.Load()+two.read.Load() == 400 }, "the second half, shared, nothing twice")
	leaveTwo()
	Eventually(func() bool { return one.claims.Load() == 4 }, "everything comes back")
	leaveOne()
	found, err := admin.ListConsumerGroupOffsets(topic, nil)
	Must(err, "offsets")
	for p := range int32(4) {
		block := found.GetBlock(topic, p)
		Equal(block.Offset, int64(100), "committed")
		Equal(block.Metadata, "seen", "metadata")
	}
	Eventually(func() bool { return admin.DeleteConsumerGroup(topic) == nil }, "the group is deleted")
}

func deletion() {
	topic := create("gone", Partitions, nil)
	produce(topic, Partitions, Matrix(3), nil)
	Must(admin.DeleteTopic(topic), "delete")
	Eventually(func() bool { return leaders(topic) == 0 }, "topic gone")
}

func main() {
	Test("sarama", "admin: create, describe, configs, add partitions, cluster", administration)
	for _, codec := range Codecs {
		Test("sarama", "every kind of record, compression "+codec, func() { everyKind(codec) })
	}
	Test("sarama", "from the middle, from the end, then a new record", positions)
	for _, codec := range []string{"none", "zstd"} {
		Test("sarama", "offsets by timestamp are exact inside a batch, compression "+codec, func() { timestamps(codec) })
	}
	Test("sarama", "idempotent producer", idempotence)
	Test("sarama", "acks 0, 1 and all", acknowledgements)
	Test("sarama", "pinned to "+sarama.MaxVersion.String()+", its newest", func() { pinned(sarama.MaxVersion, true) })
	Test("sarama", "pinned to "+sarama.MaxVersion.String()+" without asking for versions", func() { pinned(sarama.MaxVersion, false) })
	Test("sarama", "pinned to 2.1.0", func() { pinned(sarama.V2_1_0_0, true) })
	Test("sarama", "consumer group: two members share, one leaves, offsets go on", group)
	Test("sarama", "delete a topic", deletion)
	Finish()
}
