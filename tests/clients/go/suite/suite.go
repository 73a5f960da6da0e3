// Package suite holds what the Go client suites share: the case runner, the records and their comparison.
//
// Output: `ok - NAME` or `not ok - NAME: why`, one line a case; scripts/test counts them. A case fails by panicking, and
// does not stop the following ones. Nothing here depends on a client library.
package suite

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

const (
	Partitions    = 3
	BigValueBytes = 1_000_000
	WaitMax       = 60 * time.Second
)

var (
	Bootstrap = os.Getenv("BOOTSTRAP")
	Codecs    = []string{"none", "gzip", "snappy", "lz4", "zstd"}
	failed    = 0
)

// Header is a record header; Value nil is a null.
type Header struct {
	Name  string
	Value []byte
}

// Rec is a record as it is sent and as it must come back; nil Key or Value is a null.
type Rec struct {
	Key, Value  []byte
	TimestampMs int64
	Headers     []Header
	Offset      int64
}

// Test runs one case of the named suite.
func Test(suite, name string, body func()) {
	defer func() {
		if problem := recover(); problem != nil {
			failed++
			text := strings.Join(strings.Fields(fmt.Sprint(problem)), " ")
			fmt.Printf("not ok - %s: %s: %.500s\n", suite, name, text)
			debug.PrintStack()
		}
	}()
	body()
	fmt.Printf("ok - %s: %s\n", suite, name)
}

// Finish ends the process with 1 when a case failed.
func Finish() {
	if failed > 0 {
		os.Exit(1)
	}
	os.Exit(0)
}

// Must fails the case on an error.
func Must(err error, what string) {
	if err != nil {
		panic(what + ": " + err.Error())
	}
}

// Equal fails the case unless both are the same.
func Equal[T comparable](got, want T, what string) {
	if got != want {
		panic(fmt.Sprintf("%s: got %v, want %v", what, got, want))
	}
}

// Eventually polls what Kafka promises only soon.
func Eventually(holds func() bool, what string) {
	for deadline := time.Now().Add(WaitMax); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			panic("not in time: " + what)
		}
	}
}

// TopicName is a name no other run uses.
func TopicName(label string) string {
	return fmt.Sprintf("t-go-%s-%d-%08x", label, os.Getpid(), rand.Uint32())
}

// Noise is bytes no codec can shrink, the same for the same seed.
func Noise(seed int64, size int) []byte {
	out := make([]byte, size)
	rand.New(rand.NewSource(seed)).Read(out)
	return out
}

// Matrix is every shape of record that was ever a problem.
func Matrix(seed int64) []Rec {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	headers := []Header{{"a", []byte("1")}, {"a", []byte("2")}, {"", []byte("empty name")}, {"empty", []byte{}},
		{"null", nil}, {"\u00fc", []byte{255, 0}}}
	base := time.Now().UnixMilli() - 60_000
	records := []Rec{
		{Key: []byte("key"), Value: []byte("value")},
		{Value: []byte("x")},
		{Key: []byte("tombstone")},
		{Key: []byte{}, Value: []byte{}},
		{Headers: headers[:1]},
		{Key: all, Value: all},
		{Key: []byte("h"), Value: []byte("headers"), Headers: headers},
		{Key: []byte("text"), Value: []byte(strings.Repeat("compressible ", 2000))},
		{Key: []byte("noise"), Value: Noise(seed+1, 5000)},
		{Key: []byte("big"), Value: Noise(seed, BigValueBytes), Headers: headers},
		{Value: []byte("last")},
	}
	for i := range records {
		records[i].TimestampMs = base + 7*int64(i)
	}
	return records
}

// Numbered is `count` small records, `stepMs` apart.
func Numbered(count int, baseMs, stepMs int64) []Rec {
	records := make([]Rec, count)
	for i := range records {
		records[i] = Rec{Key: fmt.Appendf(nil, "%d", i), Value: fmt.Appendf(nil, "v%d", i), TimestampMs: baseMs + stepMs*int64(i)}
	}
	return records
}

func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// Same compares every byte, key, header, timestamp and offset.
func Same(want, got []Rec, from int64) {
	Equal(len(got), len(want), "number of records")
	for i, w := range want {
		g := got[i]
		Equal(g.Offset, from+int64(i), "offset")
		same := sameBytes(w.Key, g.Key) && sameBytes(w.Value, g.Value) && w.TimestampMs == g.TimestampMs && len(w.Headers) == len(g.Headers)
		for h := 0; same && h < len(w.Headers); h++ {
			same = w.Headers[h].Name == g.Headers[h].Name && sameBytes(w.Headers[h].Value, g.Headers[h].Value)
		}
		if !same {
			panic(fmt.Sprintf("record %d differs: key %.20q value %d bytes ts %d headers %v, sent key %.20q value %d bytes ts %d headers %v",
				i, g.Key, len(g.Value), g.TimestampMs, g.Headers, w.Key, len(w.Value), w.TimestampMs, w.Headers))
		}
	}
}
