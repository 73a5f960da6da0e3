// KafkaJS against the endpoint in BOOTSTRAP.
//
// KafkaJS has no consumer without a group, so records are read back through its own broker object: the same encoder,
// decoder and decompressor, minus the group. Output: `ok - NAME` or `not ok - NAME: why`, one line a case.

'use strict'

const crypto = require('crypto')
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const snappy = require('snappyjs')
const lz4 = require('lz4-napi')
const zstd = require('@bokuweb/zstd-wasm')

const BOOTSTRAP = process.env.BOOTSTRAP
const PARTITIONS = 3
const BIG_VALUE_BYTES = 1000000
const WAIT_MS_MAX = 60000
const XERIAL_MAGIC = Buffer.from([130, 83, 78, 65, 80, 80, 89, 0])

// Codecs KafkaJS leaves to plug-ins.
CompressionCodecs[CompressionTypes.Snappy] = () => ({
  compress: async encoder => snappy.compress(encoder.buffer),
  decompress: async data => {
    if (!data.subarray(0, 8).equals(XERIAL_MAGIC)) return snappy.uncompress(data)
    const parts = []
    for (let at = 16; at < data.length; ) {
      const size = data.readInt32BE(at)
      parts.push(snappy.uncompress(data.subarray(at + 4, at + 4 + size)))
      at += 4 + size
    }
    return Buffer.concat(parts)
  },
})
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => lz4.compressFrame(encoder.buffer),
  decompress: async data => lz4.decompressFrame(data),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async data => Buffer.from(zstd.decompress(data)),
})

const kafka = new Kafka({ clientId: 'kafkajs-suite', brokers: [BOOTSTRAP], logLevel: logLevel.NOTHING })
const admin = kafka.admin()
let failed = 0

async function test(name, body) {
  try {
    await body()
    console.log(`ok - kafkajs: ${name}`)
  } catch (error) {
    failed++
    console.log(`not ok - kafkajs: ${name}: ${String(error).replace(/\s+/g, ' ')}`)
    console.error(error)
  }
}

function check(holds, what) {
  if (!holds) throw new Error(what)
}

function equal(got, want, what) {
  const [g, w] = [JSON.stringify(got), JSON.stringify(want)]
  check(g === w, `${what}: got ${g}, want ${w}`)
}

async function eventually(condition, what) {
  const deadline = Date.now() + WAIT_MS_MAX
  for (;;) {
    const result = await condition()
    if (result) return result
    check(Date.now() < deadline, `not in time: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 100))
  }
}

function noise(seed, size) {
  const cipher = crypto.createCipheriv('aes-256-ctr', crypto.createHash('sha256').update(seed).digest(), Buffer.alloc(16))
  return cipher.update(Buffer.alloc(size))
}

function matrix(seed) {
  const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i))
  const base = Date.now() - 60000
  const shapes = [
    ['key', 'value', {}],
    [null, 'x', {}],
    ['tombstone', null, {}],
    ['', '', {}],
    [null, null, { only: 'header' }],
    [all, all, {}],
    ['h', 'headers', { a: ['1', '2'], empty: '', '\u00fc': Buffer.from([255, 0]) }],
    ['text', 'compressible '.repeat(2000), {}],
    ['big', noise(seed, BIG_VALUE_BYTES), { big: 'yes' }],
    [null, 'last', {}],
  ]
  return shapes.map(([key, value, headers], i) => ({ key, value, headers, timestamp: String(base + 7 * i) }))
}

async function create(label, partitions = PARTITIONS, configEntries = []) {
  const topic = `t-kafkajs-${label}-${crypto.randomUUID()}`
  check(await admin.createTopics({ topics: [{ topic, numPartitions: partitions, configEntries }] }), 'not created')
  await eventually(async () => {
    const found = await admin.fetchTopicMetadata({ topics: [topic] }).catch(() => null)
    return found && found.topics[0].partitions.filter(p => p.leader >= 0).length === partitions
  }, `${topic} in the metadata`)
  // Kafka tells its metadata before its partitions answer.
  await eventually(() => admin.fetchTopicOffsets(topic).then(() => true, () => false), `${topic} has leaders that serve`)
  return topic
}

async function produce(topic, records, { partitions = PARTITIONS, acks = -1, compression, idempotent = false } = {}) {
  const producer = kafka.producer({ idempotent, maxInFlightRequests: idempotent ? 1 : undefined })
  await producer.connect()
  for (let partition = 0; partition < partitions; partition++) {
    // The big record would push the batch over message.max.bytes: it goes alone.
    const big = r => r.value !== null && r.value.length >= BIG_VALUE_BYTES
    const cut = records.findIndex(big)
    const groups = cut < 0 ? [records] : [records.slice(0, cut), [records[cut]], records.slice(cut + 1)]
    for (const group of groups.filter(g => g.length)) {
      await producer.send({ topic, acks, compression, messages: group.map(r => ({ ...r, partition })) })
    }
  }
  await producer.disconnect()
}

// Reads with KafkaJS's own fetch: from `offset`, until `count` records or nothing more comes.
async function consume(topic, partition, offset, count, maxWaitMs = 5000) {
  const out = []
  const cluster = await openCluster(topic)
  const leader = cluster.findLeaderForPartitions(topic, [partition])
  const broker = await cluster.findBroker({ nodeId: Object.keys(leader)[0] })
  let at = offset
  while (out.length < count) {
    const request = { topic, partitions: [{ partition, fetchOffset: String(at), maxBytes: 1048576 }] }
    const { responses } = await broker.fetch({ maxWaitTime: maxWaitMs, minBytes: 1, maxBytes: 10485760, topics: [request] })
    const messages = responses[0].partitions[0].messages.filter(m => Number(m.offset) >= at)
    if (messages.length === 0) break
    out.push(...messages)
    at = Number(messages[messages.length - 1].offset) + 1
  }
  await cluster.disconnect()
  return out
}

async function openCluster(topic) {
  const Cluster = require('kafkajs/src/cluster')
  const logger = { debug() {}, info() {}, warn() {}, error() {}, namespace: () => logger }
  const socketFactory = require('kafkajs/src/network/socketFactory')()
  const cluster = new Cluster({ logger, socketFactory, brokers: [BOOTSTRAP], clientId: 'kafkajs-suite',
    connectionTimeout: 5000, authenticationTimeout: 5000, requestTimeout: 30000, enforceRequestTimeout: true,
    metadataMaxAge: 300000, maxInFlightRequests: null, isolationLevel: 1, offsets: new Map(), retry: { retries: 3 } })
  await cluster.connect()
  await cluster.addTargetTopic(topic)
  return cluster
}

const bytes = x => (x === null || x === undefined ? null : Buffer.from(x))
const hex = x => (x === null ? null : crypto.createHash('sha256').update(x).digest('hex'))

function plain(record, offset) {
  const headers = Object.entries(record.headers || {}).map(([k, v]) => [k, [].concat(v).map(one => bytes(one).toString('hex'))])
  return { offset, key: hex(bytes(record.key)), value: hex(bytes(record.value)), timestamp: record.timestamp, headers }
}

function same(want, got, from = 0) {
  equal(got.length, want.length, 'number of records')
  want.forEach((record, i) => equal(plain(got[i], Number(got[i].offset)), plain(record, from + i), `record ${i}`))
}

async function administration() {
  const topic = await create('admin', PARTITIONS, [{ name: 'retention.ms', value: '3600000' }])
  check((await admin.listTopics()).includes(topic), 'listed')
  const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: 2, name: topic }] })
  const value = name => resources[0].configEntries.find(e => e.configName === name).configValue
  equal([value('retention.ms'), value('segment.bytes')], ['3600000', '1073741824'], 'configs')
  await admin.createPartitions({ topicPartitions: [{ topic, count: PARTITIONS + 2 }] })
  const offsets = () => admin.fetchTopicOffsets(topic).catch(() => [])
  await eventually(async () => (await offsets()).length === PARTITIONS + 2, 'new partitions')
  equal((await admin.describeCluster()).brokers.length, 1, 'brokers')
}

async function everyKind(name) {
  const topic = await create(name)
  const records = matrix(name)
  await produce(topic, records, { compression: CompressionTypes[name] })
  for (let p = 0; p < PARTITIONS; p++) same(records, await consume(topic, p, 0, records.length))
}

async function positions() {
  const topic = await create('positions', 1)
  const records = matrix('positions')
  await produce(topic, records, { partitions: 1, compression: CompressionTypes.GZIP })
  for (let from = 1; from < records.length; from++) {
    same(records.slice(from), await consume(topic, 0, from, records.length - from), from)
  }
  equal(await consume(topic, 0, records.length, 1, 200), [], 'the end')
  const offsets = (await admin.fetchTopicOffsets(topic))[0]
  equal([offsets.low, offsets.high], ['0', String(records.length)], 'watermarks')
  const fresh = [{ key: 'new', value: 'one', headers: {}, timestamp: String(Date.now()) }]
  const waiting = consume(topic, 0, records.length, 1, 20000)
  await produce(topic, fresh, { partitions: 1 })
  same(fresh, await waiting, records.length)
}

async function timestamps(name) {
  const topic = await create('time', 1)
  const base = Date.now() - 1000000
  const records = Array.from({ length: 30 }, (_, i) => ({ key: null, value: `v${i}`, timestamp: String(base + 10 * i) }))
  await produce(topic, records, { partitions: 1, compression: CompressionTypes[name] })
  for (let i = 0; i < records.length; i++) {
    for (const asked of [base + 10 * i, base + 10 * i - 5]) {
      const found = await admin.fetchTopicOffsetsByTimestamp(topic, asked)
      equal(found[0].offset, String(i), `offset at ${asked - base}`)
    }
  }
}

async function idempotence() {
  const topic = await create('idem')
  const records = Array.from({ length: 200 }, (_, i) => ({ key: `${i}`, value: `v${i}`, headers: {}, timestamp: String(Date.now()) }))
  await produce(topic, records, { idempotent: true })
  for (let p = 0; p < PARTITIONS; p++) same(records, await consume(topic, p, 0, records.length))
}

async function acknowledgements() {
  const topic = await create('acks', 1)
  const sent = []
  for (const acks of [0, 1, -1]) {
    const records = Array.from({ length: 50 }, (_, i) => ({ key: null, value: `${acks}-${i}`, headers: {}, timestamp: String(Date.now()) }))
    await produce(topic, records, { partitions: 1, acks })
    sent.push(...records)
    await eventually(async () => (await admin.fetchTopicOffsets(topic))[0].high === String(sent.length), `acks ${acks}`)
    same(sent, await consume(topic, 0, 0, sent.length))
  }
}

async function groups() {
  const topic = await create('group', 4)
  const records = Array.from({ length: 50 }, (_, i) => ({ key: null, value: `v${i}`, headers: {}, timestamp: String(Date.now()) }))
  await produce(topic, records, { partitions: 4 })
  const seen = []
  async function join() {
    const consumer = kafka.consumer({ groupId: topic, sessionTimeout: 10000, heartbeatInterval: 300, maxWaitTimeInMs: 200 })
    await consumer.connect()
    await consumer.subscribe({ topics: [topic], fromBeginning: true })
    await consumer.run({
      autoCommitInterval: 100,
      eachMessage: async ({ partition, message }) => { seen.push(`${partition}@${message.offset}`) },
    })
    return consumer
  }
  const members = async () => (await admin.describeGroups([topic])).groups[0]
  const one = await join()
  await eventually(() => seen.length === 200, 'all records')
  const two = await join()
  await eventually(async () => {
    const group = await members()
    return group.state === 'Stable' && group.members.length === 2
  }, 'two members')
  await two.disconnect()
  await eventually(async () => (await members()).members.length === 1, 'one member')
  await produce(topic, records, { partitions: 4 })
  await eventually(() => new Set(seen).size === 400, 'the second half')
  await one.disconnect()
  const offsets = (await admin.fetchOffsets({ groupId: topic, topics: [topic] }))[0].partitions
  equal(offsets.map(p => p.offset), ['100', '100', '100', '100'], 'committed')
  check((await admin.listGroups()).groups.some(group => group.groupId === topic), 'not listed')
  await admin.deleteGroups([topic])
}

async function deletion() {
  const topic = await create('gone')
  await admin.deleteTopics({ topics: [topic] })
  await eventually(async () => !(await admin.listTopics()).includes(topic), 'topic gone')
}

async function main() {
  await zstd.init()
  await admin.connect()
  await test('admin: create, describe, configs, add partitions, cluster', administration)
  for (const name of ['None', 'GZIP', 'Snappy', 'LZ4', 'ZSTD']) {
    await test(`every kind of record, compression ${name}`, () => everyKind(name))
  }
  await test('from the middle, from the end, then a new record', positions)
  for (const name of ['None', 'ZSTD']) {
    await test(`offsets by timestamp are exact inside a batch, compression ${name}`, () => timestamps(name))
  }
  await test('idempotent producer', idempotence)
  await test('acks 0, 1 and all', acknowledgements)
  await test('consumer group: two members share, one leaves, offsets go on', groups)
  await test('delete a topic', deletion)
  process.exit(failed ? 1 : 0)
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
