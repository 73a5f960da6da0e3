/* A producer and a consumer on librdkafka, as an application would write them: what a user's client sees.
 *
 *   rdkafka_load produce BOOTSTRAP TOPIC RECORDS RECORD_BYTES COMPRESSION
 *   rdkafka_load consume BOOTSTRAP TOPIC RECORDS
 *
 * Prints one line of JSON: records, seconds, processor seconds of this process. acks=all; values of words, so that
 * compression has something to do; the consumer assigns all partitions from their beginning and needs no group.
 */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define PARTITIONS 4
#define BATCH 4096

static long delivered, failed;

static double now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void set(rd_kafka_conf_t *conf, const char *key, const char *value) {
    char text[512];
    if (rd_kafka_conf_set(conf, key, value, text, sizeof text) != RD_KAFKA_CONF_OK) die(key, text);
}

static void on_delivery(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
    (void)client; (void)opaque;
    if (message->err) failed++; else delivered++;
}

static void finish(long records, double start, double cpu) {
    printf("{\"records\": %ld, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", records,
           now(CLOCK_MONOTONIC) - start, now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
}

static void produce(rd_kafka_conf_t *conf, const char *topic, long records, size_t size, const char *compression) {
    static const char *words[] = {"offset ", "broker ", "segment ", "leader ", "epoch ", "batch ", "fetch ", "log "};
    char text[512];
    set(conf, "acks", "all");
    set(conf, "compression.type", compression);
    set(conf, "linger.ms", "5");
    set(conf, "batch.size", "1000000");
    set(conf, "queue.buffering.max.messages", "1000000");
    set(conf, "queue.buffering.max.kbytes", "1000000");
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_t *client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    if (!client) die("producer", text);
    rd_kafka_topic_t *handle = rd_kafka_topic_new(client, topic, NULL);
    char *pool = malloc(size + (1 << 20));
    size_t filled = 0;
    unsigned seed = 1;
    while (filled < size + (1 << 20)) {
        seed = seed * 1103515245 + 12345;
        const char *word = words[(seed >> 16) & 7];
        for (; *word && filled < size + (1 << 20); word++) pool[filled++] = *word ^ ((seed >> 24) & 1);
    }
    double start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    for (long n = 0; n < records; n++) {
        void *value = pool + (n * 131) % (1 << 20);
        while (rd_kafka_produce(handle, (int)(n / 1000 % PARTITIONS), RD_KAFKA_MSG_F_COPY, value, size, NULL, 0, NULL)) {
            if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL)
                die("produce", rd_kafka_err2str(rd_kafka_last_error()));
            rd_kafka_poll(client, 10);
        }
        if (n % BATCH == 0) rd_kafka_poll(client, 0);
    }
    rd_kafka_flush(client, 60000);
    if (failed || delivered != records) die("delivery", "not everything was acknowledged");
    finish(records, start, cpu);
    rd_kafka_topic_destroy(handle);
    rd_kafka_destroy(client);
}

static void consume(rd_kafka_conf_t *conf, const char *topic, long records) {
    char text[512];
    set(conf, "group.id", "rdkafka-load");
    set(conf, "enable.auto.commit", "false");
    set(conf, "check.crcs", "true");
    rd_kafka_t *client = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    if (!client) die("consumer", text);
    rd_kafka_poll_set_consumer(client);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(PARTITIONS);
    for (int index = 0; index < PARTITIONS; index++)
        rd_kafka_topic_partition_list_add(list, topic, index)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_resp_err_t error = rd_kafka_assign(client, list);
    if (error) die("assign", rd_kafka_err2str(error));
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(client);
    static rd_kafka_message_t *messages[BATCH];
    double start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID), last = start;
    long seen = 0;
    while (seen < records) {
        ssize_t count = rd_kafka_consume_batch_queue(queue, 100, messages, BATCH);
        for (ssize_t n = 0; n < count; n++) {
            if (!messages[n]->err) seen++;
            rd_kafka_message_destroy(messages[n]);
        }
        if (count > 0) last = now(CLOCK_MONOTONIC);
        if (now(CLOCK_MONOTONIC) - last > 20) die("consume", "no data for 20 s");
    }
    finish(seen, start, cpu);
    rd_kafka_queue_destroy(queue);
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_consumer_close(client);
    rd_kafka_destroy(client);
}

int main(int count, char **arguments) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (count == 7 && !strcmp(arguments[1], "produce")) {
        set(conf, "bootstrap.servers", arguments[2]);
        produce(conf, arguments[3], atol(arguments[4]), (size_t)atol(arguments[5]), arguments[6]);
    } else if (count == 5 && !strcmp(arguments[1], "consume")) {
        set(conf, "bootstrap.servers", arguments[2]);
        consume(conf, arguments[3], atol(arguments[4]));
    } else {
        die("usage", "rdkafka_load produce BOOTSTRAP TOPIC RECORDS BYTES COMPRESSION | consume BOOTSTRAP TOPIC RECORDS");
    }
    return 0;
}
