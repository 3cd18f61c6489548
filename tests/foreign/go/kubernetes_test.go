// What the storage layer of Kubernetes' API server asks of etcd, by the client that it uses.
package foreign

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func connectKubernetes(t *testing.T) kubernetes.Interface {
	t.Helper()
	return kubernetes.Client{Client: connect(t)}
}

// A client of the one member at endpoint.
func connectTo(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{endpoint},
		DialTimeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func create(t *testing.T, ctx context.Context, client kubernetes.Interface, key, value string) int64 {
	t.Helper()
	put, err := client.OptimisticPut(ctx, key, []byte(value), 0, kubernetes.PutOptions{})
	if err != nil || !put.Succeeded {
		t.Fatalf("%s: %+v %v", key, put, err)
	}
	return put.Revision
}

func keys(kvs []*mvccpb.KeyValue) []string {
	var keys []string
	for _, kv := range kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

func TestKubernetesWritesAreConditional(t *testing.T) {
	client := connectKubernetes(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const key = "/registry/write/a"
	created := create(t, ctx, client, key, "1")
	look := kubernetes.PutOptions{GetOnFailure: true}
	put, err := client.OptimisticPut(ctx, key, []byte("2"), 0, look)
	if err != nil || put.Succeeded || put.KV.ModRevision != created || string(put.KV.Value) != "1" {
		t.Fatalf("a second creation: %+v %v", put, err)
	}
	put, err = client.OptimisticPut(ctx, key, []byte("2"), created, look)
	if err != nil || !put.Succeeded || put.Revision <= created {
		t.Fatalf("%+v %v", put, err)
	}
	updated := put.Revision
	deleted, err := client.OptimisticDelete(ctx, key, created, kubernetes.DeleteOptions{GetOnFailure: true})
	if err != nil || deleted.Succeeded || deleted.KV.ModRevision != updated {
		t.Fatalf("an outdated deletion: %+v %v", deleted, err)
	}
	deleted, err = client.OptimisticDelete(ctx, key, updated, kubernetes.DeleteOptions{GetOnFailure: true})
	if err != nil || !deleted.Succeeded || deleted.Revision <= updated {
		t.Fatalf("%+v %v", deleted, err)
	}
	got, err := client.Get(ctx, key, kubernetes.GetOptions{})
	if err != nil || got.KV != nil || got.Revision < deleted.Revision {
		t.Fatalf("%+v %v", got, err)
	}
	got, err = client.Get(ctx, key, kubernetes.GetOptions{Revision: created})
	if err != nil || string(got.KV.Value) != "1" {
		t.Fatalf("%+v %v", got, err)
	}
	put, err = client.OptimisticPut(ctx, key, []byte("3"), updated, look)
	if err != nil || put.Succeeded || put.KV != nil {
		t.Fatalf("an update of what is gone: %+v %v", put, err)
	}
}

func TestKubernetesListsPagesOfOneRevision(t *testing.T) {
	client, plain := connectKubernetes(t), connect(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const prefix = "/registry/list/"
	var want []string
	for number := range 25 {
		key := fmt.Sprintf("%s%02d", prefix, number)
		create(t, ctx, client, key, strings.Repeat("v", 100))
		want = append(want, key)
	}
	page, err := client.List(ctx, prefix, kubernetes.ListOptions{Limit: 10})
	if err != nil || page.Count != 25 || len(page.Kvs) != 10 {
		t.Fatalf("%+v %v", page, err)
	}
	pinned, found := page.Revision, keys(page.Kvs)
	create(t, ctx, client, prefix+"11a", "")
	for left := int64(15); left > 0; left -= 10 {
		page, err = client.List(ctx, prefix, kubernetes.ListOptions{
			Limit: 10, Revision: pinned, Continue: found[len(found)-1] + "\x00",
		})
		if err != nil || page.Count != left {
			t.Fatalf("%+v %v", page, err)
		}
		found = append(found, keys(page.Kvs)...)
	}
	if strings.Join(found, " ") != strings.Join(want, " ") {
		t.Fatal(found)
	}
	if count, err := client.Count(ctx, prefix, kubernetes.CountOptions{}); err != nil || count != 26 {
		t.Fatal(count, err)
	}
	// The same by RangeStream, as Kubernetes 1.37 reads.
	read := func(key string, options ...clientv3.OpOption) ([]string, *clientv3.GetResponse, error) {
		options = append(options, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)))
		stream, err := plain.GetStream(ctx, key, options...)
		if err != nil {
			return nil, nil, err
		}
		var found []string
		var last *clientv3.GetResponse
		for response := range stream {
			if err := response.Err(); err != nil {
				return found, last, err
			}
			last = (*clientv3.GetResponse)(response.RangeResponse)
			found = append(found, keys(last.Kvs)...)
		}
		return found, last, nil
	}
	found, last, err := read(prefix, clientv3.WithRev(pinned))
	if err != nil || strings.Join(found, " ") != strings.Join(want, " ") || last.Count != 25 || last.More {
		t.Fatal(found, last, err)
	}
	found, last, err = read(found[9]+"\x00", clientv3.WithRev(pinned), clientv3.WithLimit(10))
	if err != nil || strings.Join(found, " ") != strings.Join(want[10:20], " ") || last.Count != 15 || !last.More {
		t.Fatal(found, last, err)
	}
	if _, _, err = read(prefix, clientv3.WithRev(pinned+1_000_000)); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Fatal(err)
	}
	sort := clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend)
	if _, _, err = read(prefix, sort); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
}

// Kubernetes serves a linearizable list from its cache once a watch says that it has seen the
// newest revision. It asks for that on the watch's own stream, of whatever member that is.
func TestKubernetesCacheKnowsThatItIsFresh(t *testing.T) {
	everywhere := connect(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, endpoint := range everywhere.Endpoints() {
		prefix := "/registry/fresh/" + endpoint + "/"
		answer, err := everywhere.Status(ctx, endpoint)
		if err != nil || answer.Version < "3.5.13" {
			t.Fatalf("Kubernetes would not ask for progress: %+v %v", answer, err)
		}
		client := connectTo(t, endpoint)
		got, err := client.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		stream := clientv3.WithRequireLeader(ctx)
		responses := client.Watch(stream, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(),
			clientv3.WithProgressNotify(), clientv3.WithRev(got.Header.Revision+1))
		seen := map[string]int64{}
		var newest, progress int64
		// One request for progress; a watch that is still catching up leaves it unanswered.
		ask := func() {
			if err := client.RequestProgress(stream); err != nil {
				t.Fatal(err)
			}
			again := time.After(100 * time.Millisecond)
			for {
				select {
				case <-again:
					return
				case response := <-responses:
					if response.Err() != nil || response.Header.Revision == 0 {
						t.Fatalf("the watch ended: %+v", response)
					}
					for _, event := range response.Events {
						if event.Kv.ModRevision <= progress {
							t.Fatalf("%v came after progress %d", event, progress)
						}
						seen[string(event.Kv.Key)] = event.Kv.ModRevision
					}
					if response.IsProgressNotify() {
						progress = response.Header.Revision
						return
					}
				}
			}
		}
		for number := range 50 {
			key := fmt.Sprint(prefix, number)
			newest = create(t, ctx, kubernetes.Client{Client: everywhere}, key, "v")
			if number%10 != 9 {
				continue
			}
			for progress < newest {
				ask()
			}
			if seen[key] != newest {
				t.Fatalf("progress said %d, and %s of %d had not come", progress, key, newest)
			}
		}
	}
}

// The compactor of each API server: one of them wins, and the others hear of it by a watch.
func TestKubernetesCompactor(t *testing.T) {
	plain, client := connect(t), connectKubernetes(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	old := create(t, ctx, client, "/registry/compact/a", "1")
	newest := create(t, ctx, client, "/registry/compact/b", "1")
	compact := func(version int64) *clientv3.TxnResponse {
		txn, err := plain.Txn(ctx).
			If(clientv3.Compare(clientv3.Version("compact_rev_key"), "=", version)).
			Then(clientv3.OpPut("compact_rev_key", fmt.Sprint(newest))).
			Else(clientv3.OpGet("compact_rev_key")).
			Commit()
		if err != nil {
			t.Fatal(err)
		}
		return txn
	}
	watch := plain.Watch(clientv3.WithRequireLeader(ctx), "compact_rev_key", clientv3.WithRev(newest))
	if txn := compact(0); !txn.Succeeded {
		t.Fatalf("%+v", txn)
	}
	if txn := compact(0); txn.Succeeded || txn.Responses[0].GetResponseRange().Kvs[0].Version != 1 {
		t.Fatalf("%+v", txn)
	}
	heard := <-watch
	if heard.Err() != nil || string(heard.Events[0].Kv.Value) != fmt.Sprint(newest) {
		t.Fatalf("%+v", heard)
	}
	if _, err := plain.Compact(ctx, newest); err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Compact(ctx, newest); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Fatal(err)
	}
	// A continued list at what is gone, by both ways of reading, and a watch from there.
	if _, err := client.List(ctx, "/registry/compact/", kubernetes.ListOptions{Revision: old}); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Fatal(err)
	}
	stream, err := plain.GetStream(ctx, "/registry/compact/", clientv3.WithPrefix(), clientv3.WithRev(old))
	if err != nil {
		t.Fatal(err)
	}
	if response := <-stream; !errors.Is(response.Err(), rpctypes.ErrCompacted) {
		t.Fatalf("%+v", response)
	}
	late := <-plain.Watch(ctx, "/registry/compact/", clientv3.WithPrefix(), clientv3.WithRev(old))
	if !errors.Is(late.Err(), rpctypes.ErrCompacted) || late.CompactRevision != newest {
		t.Fatalf("%+v", late)
	}
}
