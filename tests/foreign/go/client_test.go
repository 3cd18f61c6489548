// Go's clientv3 against the members that KVD_ENDPOINTS names; tests/go_client.rs starts them.
package foreign

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func connect(t *testing.T) *clientv3.Client {
	t.Helper()
	endpoints := os.Getenv("KVD_ENDPOINTS")
	if endpoints == "" {
		t.Fatal("KVD_ENDPOINTS is empty")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(endpoints, ","),
		DialTimeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestKV(t *testing.T) {
	client := connect(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	put, err := client.Put(ctx, "go/foo", "bar")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(ctx, "go/foo", "baz", clientv3.WithPrevKV()); err != nil {
		t.Fatal(err)
	}
	old, err := client.Get(ctx, "go/foo", clientv3.WithRev(put.Header.Revision))
	if err != nil || string(old.Kvs[0].Value) != "bar" {
		t.Fatalf("%v %v", old, err)
	}
	txn, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("go/foo"), "=", "baz")).
		Then(clientv3.OpPut("go/foo", "txn"), clientv3.OpGet("go/foo")).
		Else(clientv3.OpGet("go/foo")).
		Commit()
	if err != nil || !txn.Succeeded {
		t.Fatalf("%v %v", txn, err)
	}
	if value := txn.Responses[1].GetResponseRange().Kvs[0].Value; string(value) != "txn" {
		t.Fatalf("a range after a put in one transaction saw %q", value)
	}
	deleted, err := client.Delete(ctx, "go/", clientv3.WithPrefix())
	if err != nil || deleted.Deleted != 1 {
		t.Fatalf("%v %v", deleted, err)
	}
	if _, err := client.Put(ctx, "", "x"); err == nil ||
		!strings.Contains(err.Error(), "key is not provided") {
		t.Fatalf("an empty key: %v", err)
	}
}

func TestClusterAndMaintenance(t *testing.T) {
	client := connect(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	members, err := client.MemberList(ctx)
	if err != nil || len(members.Members) != 3 {
		t.Fatalf("%v %v", members, err)
	}
	for _, endpoint := range client.Endpoints() {
		status, err := client.Status(ctx, endpoint)
		if err != nil || status.Leader == 0 || status.Version != "3.7.1" {
			t.Fatalf("%v %v", status, err)
		}
		if _, err := client.HashKV(ctx, endpoint, 0); err != nil {
			t.Fatal(err)
		}
	}
	alarms, err := client.AlarmList(ctx)
	if err != nil || len(alarms.Alarms) != 0 {
		t.Fatalf("%v %v", alarms, err)
	}
}

func TestWatchAndLease(t *testing.T) {
	client := connect(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	events := client.Watch(clientv3.WithRequireLeader(ctx), "go/w", clientv3.WithPrevKV())
	lease, err := client.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(ctx, "go/w", "1", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	kept, err := client.KeepAliveOnce(ctx, lease.ID)
	if err != nil || kept.TTL != 60 {
		t.Fatalf("%v %v", kept, err)
	}
	if _, err := client.Revoke(ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for len(seen) < 2 {
		response := <-events
		if err := response.Err(); err != nil {
			t.Fatal(err)
		}
		for _, event := range response.Events {
			seen = append(seen, event.Type.String())
		}
	}
	if strings.Join(seen, " ") != "PUT DELETE" {
		t.Fatal(seen)
	}
	if _, err := client.KeepAliveOnce(ctx, lease.ID); err == nil ||
		!strings.Contains(err.Error(), "requested lease not found") {
		t.Fatalf("a dead lease: %v", err)
	}
}

func TestMutexAndElection(t *testing.T) {
	client := connect(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	session := func() *concurrency.Session {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	first, second := session(), session()
	defer second.Close()
	held, wanted := concurrency.NewMutex(first, "go/l"), concurrency.NewMutex(second, "go/l")
	if err := held.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := wanted.TryLock(ctx); err != concurrency.ErrLocked {
		t.Fatal(err)
	}
	// The end of the session passes the lock on, and the fence of the former holder fails.
	fence := held.IsOwner()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := wanted.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	txn, err := client.Txn(ctx).If(fence).Then(clientv3.OpPut("go/late", "")).Commit()
	if err != nil || txn.Succeeded {
		t.Fatalf("%v %v", txn, err)
	}
	election := concurrency.NewElection(second, "go/e")
	if err := election.Campaign(ctx, "me"); err != nil {
		t.Fatal(err)
	}
	observed := <-election.Observe(ctx)
	if string(observed.Kvs[0].Value) != "me" || observed.Kvs[0].CreateRevision != election.Rev() {
		t.Fatal(observed)
	}
	if err := election.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := election.Leader(ctx); err != concurrency.ErrElectionNoLeader {
		t.Fatal(err)
	}
}
