// One checkout against Holdfast: hold units, take the payment, confirm or release. README.md says how to run it.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	holdfast "holdfast/gen/holdfast/v1"
)

//go:embed gen/retry-policy.json
var policy string

const (
	// Tries of a call whose answer did not come in time. What is UNAVAILABLE the channel retries by its policy.
	tries     = 3
	eventTime = 30 * time.Second
	// A hold that has less left than a payment takes is not worth one.
	paymentTime = 500 * time.Millisecond

	sold    = 0
	notSold = 1
	failed  = 3
)

var errNoEvent = errors.New("no event")

// A call that ended with an error: its status, and what the server says about it.
type refused struct {
	call   string
	status *status.Status
	info   *errdetails.ErrorInfo
}

func refusal(call string, err error) *refused {
	r := &refused{call: call, status: status.Convert(err)}
	for _, detail := range r.status.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			r.info = info
		}
	}
	return r
}

func (r *refused) Error() string { return r.call + ": " + r.status.Message() }

func (r *refused) codeName() string { return code.Code(r.status.Code()).String() }

func (r *refused) reason() string {
	if r.info != nil {
		return r.info.GetReason()
	}
	return r.codeName()
}

func (r *refused) isReplay() bool { return r.info.GetMetadata()["replayed"] == "true" }

// Of the calls of a checkout these two codes are decisions; all others say that none was made.
func (r *refused) isDecision() bool {
	return r.info != nil && (r.status.Code() == codes.FailedPrecondition || r.status.Code() == codes.NotFound)
}

func (r *refused) explain() {
	fmt.Printf("refused %s: %s\n", r.call, r.codeName())
	details := r.status.Details()
	if len(details) == 0 {
		// Not from the server: for people who look for what is wrong with the connection.
		fmt.Fprintln(os.Stderr, r.status.Message())
		return
	}
	fmt.Printf("  message %s\n", r.status.Message())
	for _, detail := range details {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			var values []string
			for key, value := range detail.GetMetadata() {
				values = append(values, key+"="+value)
			}
			sort.Strings(values)
			fmt.Println(strings.TrimSuffix("  reason "+detail.GetReason()+": "+strings.Join(values, ", "), ": "))
		case *errdetails.RetryInfo:
			fmt.Printf("  retry after %d ms\n", detail.GetRetryDelay().AsDuration().Milliseconds())
		case *errdetails.PreconditionFailure:
			for _, each := range detail.GetViolations() {
				fmt.Printf("  failed %s: %s\n", each.GetSubject(), each.GetDescription())
			}
		case *errdetails.BadRequest:
			for _, each := range detail.GetFieldViolations() {
				fmt.Printf("  field %s: %s\n", each.GetField(), each.GetDescription())
			}
		}
	}
}

type options struct {
	target, sku, order, payment, tlsCA, tlsName string
	units                                       int64
	attempt                                     int
	stock                                       int64
	ttl                                         int64
	deadline                                    float64
}

func connect(o *options) (*grpc.ClientConn, error) {
	settings := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(policy),
		// A call waits for a server that is away, until its deadline.
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}),
	}
	if o.tlsCA == "" {
		return grpc.Dial(o.target, append(settings, grpc.WithInsecure())...)
	}
	authority, err := os.ReadFile(o.tlsCA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s has no certificate", o.tlsCA)
	}
	secure := credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: o.tlsName})
	return grpc.Dial(o.target, append(settings, grpc.WithTransportCredentials(secure))...)
}

// The events of one order, from when the stream stands on. It goes on with its resume token where the stream breaks.
type orderEvents struct {
	opened chan struct{}
	events chan *holdfast.Event
	failed chan error
}

func watch(ctx context.Context, stub holdfast.EventServiceClient, order string) *orderEvents {
	w := &orderEvents{make(chan struct{}), make(chan *holdfast.Event, 64), make(chan error, 1)}
	go w.follow(ctx, stub, order)
	return w
}

func (w *orderEvents) follow(ctx context.Context, stub holdfast.EventServiceClient, order string) {
	request := &holdfast.WatchRequest{ReferencePrefix: order, Kinds: []holdfast.EventKind{
		holdfast.EventKind_EVENT_KIND_HELD, holdfast.EventKind_EVENT_KIND_CONFIRMED,
		holdfast.EventKind_EVENT_KIND_RELEASED, holdfast.EventKind_EVENT_KIND_EXPIRED,
		holdfast.EventKind_EVENT_KIND_REFUSED}}
	for ctx.Err() == nil {
		stream, err := stub.Watch(ctx, request)
		for err == nil {
			var response *holdfast.WatchResponse
			if response, err = stream.Recv(); err != nil {
				break
			}
			if request.Start == nil {
				close(w.opened)
			}
			request.Start = &holdfast.WatchRequest_ResumeToken{ResumeToken: response.GetResumeToken()}
			for _, event := range response.GetEvents() {
				// The prefix order-1 is that of order-10 as well.
				if event.GetReference() == order {
					w.events <- event
				}
			}
		}
		if status.Code(err) != codes.Unavailable {
			w.failed <- refusal("Watch", err)
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (w *orderEvents) waitUntilOpen() error {
	select {
	case <-w.opened:
		return nil
	case err := <-w.failed:
		return err
	case <-time.After(eventTime):
		return errNoEvent
	}
}

func (w *orderEvents) printUntil(last string) error {
	for {
		select {
		case event := <-w.events:
			kind := strings.TrimPrefix(event.GetKind().String(), "EVENT_KIND_")
			fmt.Printf("event %s", kind)
			for _, line := range event.GetLines() {
				fmt.Printf(" %d %s", line.GetQuantity(), line.GetSku())
			}
			fmt.Println()
			if kind == last {
				return nil
			}
		case err := <-w.failed:
			return err
		case <-time.After(eventTime):
			return errNoEvent
		}
	}
}

type checkout struct {
	*options
	ctx          context.Context
	stockService holdfast.StockServiceClient
	reservations holdfast.ReservationServiceClient
	events       holdfast.EventServiceClient
}

// Makes a call with its deadline. What it sends has a key or an id, so that it may be sent again as it is.
func (c *checkout) call(name string, send func(context.Context) error) error {
	for number := 1; ; number++ {
		ctx, cancel := context.WithTimeout(c.ctx, time.Duration(c.deadline*float64(time.Second)))
		err := send(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if status.Code(err) != codes.DeadlineExceeded || number == tries {
			return refusal(name, err)
		}
		fmt.Printf("again %s: DEADLINE_EXCEEDED\n", name)
	}
}

func (c *checkout) setStock() error {
	var answer *holdfast.AdjustStockResponse
	err := c.call("AdjustStock", func(ctx context.Context) (err error) {
		answer, err = c.stockService.AdjustStock(ctx, &holdfast.AdjustStockRequest{
			IdempotencyKey: c.order + "/stock", Sku: c.sku, Reason: "delivery",
			Change:       &holdfast.AdjustStockRequest_SetOnHand{SetOnHand: c.stock},
			VersionCheck: &holdfast.AdjustStockRequest_AnyVersion{AnyVersion: true}})
		return err
	})
	if err == nil {
		level := answer.GetStock()
		fmt.Printf("stock %s: %d on hand, %d available\n", level.GetSku(), level.GetOnHand(), level.GetAvailable())
	}
	return err
}

func (c *checkout) reserve() (held *holdfast.ReserveResponse, state string, err error) {
	err = c.call("Reserve", func(ctx context.Context) (err error) {
		held, err = c.reservations.Reserve(ctx, &holdfast.ReserveRequest{
			// The same on every retry of this attempt, another for the customer's next.
			IdempotencyKey: fmt.Sprintf("%s/%d", c.order, c.attempt), Reference: c.order,
			Lines: []*holdfast.ReservationLine{{Sku: c.sku, Quantity: c.units}},
			Ttl:   durationpb.New(time.Duration(c.ttl) * time.Second)})
		return err
	})
	if err != nil {
		return nil, "", err
	}
	state = strings.TrimPrefix(held.GetState().String(), "RESERVATION_STATE_")
	fmt.Printf("held %d %s (%s)%s\n", c.units, c.sku, state, replayed(held.GetReplayed()))
	return held, state, nil
}

func replayed(is bool) string {
	if is {
		return ", replayed"
	}
	return ""
}

// True if the customer has paid. A real payment has an idempotency key of its own, too.
func (c *checkout) pay() bool {
	answer := c.payment
	if answer == "ask" {
		fmt.Println("payment? ok or declined")
		typed, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answer = strings.TrimSpace(typed)
	}
	if answer != "ok" {
		answer = "declined"
	}
	fmt.Println("payment", answer)
	return answer == "ok"
}

func (c *checkout) ended(word string, reservation *holdfast.Reservation, isReplay bool) {
	var units int64
	for _, line := range reservation.GetLines() {
		units += line.GetQuantity()
	}
	fmt.Printf("%s %d %s%s\n", word, units, c.sku, replayed(isReplay))
}

// How the hold has ended: a refusal says that it fell due before.
func (c *checkout) release(id string) (string, error) {
	err := c.call("Release", func(ctx context.Context) error {
		answer, err := c.reservations.Release(ctx, &holdfast.ReleaseRequest{ReservationId: id})
		if err == nil {
			c.ended("released", answer.GetReservation(), answer.GetReplayed())
		}
		return err
	})
	var r *refused
	if errors.As(err, &r) && r.reason() == "RESERVATION_EXPIRED" {
		r.explain()
		return "EXPIRED", nil
	}
	return "RELEASED", err
}

func (c *checkout) confirm(id string) error {
	return c.call("Confirm", func(ctx context.Context) error {
		// The money is here: a hold that fell due meanwhile is taken again, if there still is stock.
		answer, err := c.reservations.Confirm(ctx, &holdfast.ConfirmRequest{ReservationId: id, ReacquireIfExpired: true})
		if err == nil {
			c.ended("confirmed", answer.GetReservation(), answer.GetReplayed())
		}
		return err
	})
}

// The status, and the last line.
func (c *checkout) run() (int, string, error) {
	if c.stock >= 0 {
		if err := c.setStock(); err != nil {
			return failed, "", err
		}
	}
	events := watch(c.ctx, c.events, c.order)
	if err := events.waitUntilOpen(); err != nil {
		return failed, "", err
	}
	fmt.Println("watching", c.order)
	held, state, err := c.reserve()
	var r *refused
	if errors.As(err, &r) && r.isDecision() {
		r.explain()
		if r.isReplay() {
			return notSold, "not sold: " + r.reason(), nil
		}
		return notSold, "not sold: " + r.reason(), events.printUntil("REFUSED")
	}
	switch {
	case err != nil:
		return failed, "", err
	case state == "CONFIRMED":
		return sold, "sold", nil
	case state != "HELD":
		return notSold, "not sold: the hold is " + state, nil
	}
	// By the server's clock: this machine's may be wrong, so expires_at says nothing here.
	if held.GetRemaining().AsDuration() < paymentTime || !c.pay() {
		how, err := c.release(held.GetReservationId())
		if err != nil {
			return failed, "", err
		}
		return notSold, "not sold: no payment", events.printUntil(how)
	}
	err = c.confirm(held.GetReservationId())
	if errors.As(err, &r) && r.isDecision() {
		r.explain()
		fmt.Println("refunded")
		return notSold, "not sold: " + r.reason(), events.printUntil("EXPIRED")
	}
	if err != nil {
		return failed, "", err
	}
	return sold, "sold", events.printUntil("CONFIRMED")
}

func environment(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func parse() *options {
	o := &options{}
	flag.StringVar(&o.target, "target", environment("HOLDFAST_TARGET", "127.0.0.1:7420"), "`HOST:PORT`")
	flag.StringVar(&o.sku, "sku", "", "what is bought")
	flag.Int64Var(&o.units, "units", 1, "how many")
	flag.StringVar(&o.order, "order", "", "the order's id: reference of the hold, and in its key")
	flag.IntVar(&o.attempt, "attempt", 1, "which attempt of the customer: in the key")
	flag.Int64Var(&o.stock, "stock", -1, "set the units on hand first")
	flag.Int64Var(&o.ttl, "ttl", 60, "seconds of the hold")
	flag.StringVar(&o.payment, "payment", "ok", "ok, declined, or ask: on standard input")
	flag.Float64Var(&o.deadline, "deadline", 5, "seconds of each call")
	flag.StringVar(&o.tlsCA, "tls-ca", os.Getenv("HOLDFAST_TLS_CA"), "TLS; a PEM `file`")
	flag.StringVar(&o.tlsName, "tls-name", "", "the name in the server's certificate")
	flag.Parse()
	isPayment := o.payment == "ok" || o.payment == "declined" || o.payment == "ask"
	if o.sku == "" || o.order == "" || flag.NArg() > 0 || !isPayment {
		fmt.Fprintln(flag.CommandLine.Output(), "needs --sku and --order; --payment is ok, declined or ask")
		flag.Usage()
		os.Exit(2)
	}
	return o
}

func main() {
	o := parse()
	channel, err := connect(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer channel.Close()
	ctx := context.Background()
	if token := os.Getenv("HOLDFAST_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	c := &checkout{o, ctx, holdfast.NewStockServiceClient(channel), holdfast.NewReservationServiceClient(channel),
		holdfast.NewEventServiceClient(channel)}
	result, last, err := c.run()
	var r *refused
	if errors.As(err, &r) {
		r.explain()
		result, last = failed, "failed: "+r.reason()
	} else if err != nil {
		result, last = failed, "failed: "+err.Error()
	}
	fmt.Println(last)
	os.Exit(result)
}
