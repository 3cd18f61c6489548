// Go's clientv3 against the members that KVD_ENDPOINTS names; tests/go_client.rs starts them.
package foreign

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
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
