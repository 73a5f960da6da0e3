// A Flink application of flink_suite.py: records travel from one topic into another exactly once, through transactions.
// It fails by itself once in the middle (FAIL_AFTER records in this process) and goes on from its last checkpoint; the
// suite kills the whole process besides, and gives the folder of the last checkpoint to the next one.
// Usage: FlinkJob IN OUT CHECKPOINTS RESTORE|- FAIL_AFTER NAMING(INCREMENTING|POOLING)

import java.util.concurrent.atomic.AtomicLong;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.sink.TransactionNamingStrategy;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

public final class FlinkJob {
    /** Of the process, not of the job: the failure happens once. */
    static final AtomicLong SEEN = new AtomicLong();

    public static void main(String[] args) throws Exception {
        String bootstrap = System.getenv("BOOTSTRAP");
        long failAfter = Long.parseLong(args[4]);
        Configuration config = new Configuration();
        config.setString("execution.checkpointing.interval", "400ms");
        config.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
        config.setString("execution.checkpointing.storage", "filesystem");
        config.setString("execution.checkpointing.dir", "file://" + args[2]);
        config.setString("execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION");
        config.setString("restart-strategy.type", "fixed-delay");
        config.setString("restart-strategy.fixed-delay.attempts", "5");
        config.setString("restart-strategy.fixed-delay.delay", "200ms");
        config.setString("taskmanager.memory.network.min", "32mb");
        config.setString("taskmanager.memory.network.max", "32mb");
        config.setString("taskmanager.numberOfTaskSlots", "2");
        if (!args[3].equals("-")) {
            config.setString("execution.state-recovery.path", "file://" + args[3]);
        }
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(2, config);
        var source = KafkaSource.<String>builder().setBootstrapServers(bootstrap).setTopics(args[0])
            .setGroupId(args[0] + "-group").setStartingOffsets(OffsetsInitializer.earliest())
            .setProperty("partition.discovery.interval.ms", "1000")
            .setValueOnlyDeserializer(new SimpleStringSchema());
        KafkaSink<String> sink = KafkaSink.<String>builder().setBootstrapServers(bootstrap)
            .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE).setTransactionalIdPrefix(args[1])
            .setTransactionNamingStrategy(TransactionNamingStrategy.valueOf(args[5]))
            .setProperty("transaction.timeout.ms", "60000")
            .setRecordSerializer(KafkaRecordSerializationSchema.<String>builder().setTopic(args[1])
                .setValueSerializationSchema(new SimpleStringSchema()).build())
            .build();
        env.fromSource(source.build(), WatermarkStrategy.noWatermarks(), "in").uid("in")
            .map(value -> {
                if (SEEN.incrementAndGet() == failAfter) {
                    System.out.println("failing on purpose");
                    throw new IllegalStateException("the failure that was asked for");
                }
                return value;
            }).uid("map").sinkTo(sink).uid("out");
        env.execute("copy");
    }
}
