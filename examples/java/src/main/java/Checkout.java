import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.util.Durations;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.PreconditionFailure;
import com.google.rpc.RetryInfo;
import holdfast.v1.AdjustStockRequest;
import holdfast.v1.ConfirmRequest;
import holdfast.v1.Event;
import holdfast.v1.EventKind;
import holdfast.v1.EventServiceGrpc;
import holdfast.v1.ReleaseRequest;
import holdfast.v1.Reservation;
import holdfast.v1.ReservationLine;
import holdfast.v1.ReservationServiceGrpc;
import holdfast.v1.ReserveRequest;
import holdfast.v1.ReserveResponse;
import holdfast.v1.StockServiceGrpc;
import holdfast.v1.WatchRequest;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptor;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Supplier;
import java.util.stream.Collectors;

/** One checkout against Holdfast: hold units, take the payment, confirm or release. README.md says how to run it. */
public final class Checkout {
  /** Tries of a call whose answer did not come in time. What is UNAVAILABLE the channel retries by its policy. */
  private static final int TRIES = 3;

  private static final long EVENT_SECONDS = 30;

  /** A hold that has less left than a payment takes is not worth one. */
  private static final long PAYMENT_MILLISECONDS = 500;

  private static final int SOLD = 0;
  private static final int NOT_SOLD = 1;
  private static final int FAILED = 3;

  /** A call ended with an error: its status, and what the server says about it. */
  private static final class Refused extends RuntimeException {
    private static final long serialVersionUID = 1;
    private final String call;
    private final Status.Code code;
    private final transient com.google.rpc.Status status;
    private final transient ErrorInfo info;

    Refused(String call, StatusRuntimeException error) {
      super(error);
      this.call = call;
      code = error.getStatus().getCode();
      status = StatusProto.fromThrowable(error);
      info = detail(ErrorInfo.class);
    }

    String reason() {
      return info == null ? code.name() : info.getReason();
    }

    boolean isReplay() {
      return info != null && "true".equals(info.getMetadataMap().get("replayed"));
    }

    /** Of the calls of a checkout these two codes are decisions; all others say that none was made. */
    boolean isDecision() {
      return info != null && (code == Status.Code.FAILED_PRECONDITION || code == Status.Code.NOT_FOUND);
    }

    private <T extends Message> T detail(Class<T> kind) {
      try {
        for (Any each : status.getDetailsList()) {
          if (each.is(kind)) {
            return each.unpack(kind);
          }
        }
      } catch (InvalidProtocolBufferException error) {
        System.err.println(error.getMessage());
      }
      return null;
    }

    void explain() {
      say("refused " + call + ": " + code);
      if (info == null) {
        // Not from the server: for people who look for what is wrong with the connection.
        System.err.println(getCause());
        return;
      }
      say("  message " + status.getMessage());
      String values = new TreeMap<>(info.getMetadataMap()).entrySet().stream()
          .map(each -> each.getKey() + "=" + each.getValue()).collect(Collectors.joining(", "));
      say("  reason " + info.getReason() + (values.isEmpty() ? "" : ": " + values));
      RetryInfo retry = detail(RetryInfo.class);
      if (retry != null) {
        Duration delay = retry.getRetryDelay();
        say("  retry after " + (delay.getSeconds() * 1000 + delay.getNanos() / 1_000_000) + " ms");
      }
      PreconditionFailure failure = detail(PreconditionFailure.class);
      if (failure != null) {
        failure.getViolationsList().forEach(each -> say("  failed " + each.getSubject() + ": " + each.getDescription()));
      }
      BadRequest request = detail(BadRequest.class);
      if (request != null) {
        request.getFieldViolationsList().forEach(each -> say("  field " + each.getField() + ": " + each.getDescription()));
      }
    }
  }

  /** The events of one order, from now on, in a thread that goes on with its resume token where the stream breaks. */
  private static final class OrderEvents {
    private final EventServiceGrpc.EventServiceBlockingStub stub;
    private final String order;
    /** The default event first, once the stream stands; then events, or a Refused. */
    private final BlockingQueue<Object> seen = new LinkedBlockingQueue<>();

    OrderEvents(EventServiceGrpc.EventServiceBlockingStub stub, String order) throws InterruptedException {
      this.stub = stub;
      this.order = order;
      Thread thread = new Thread(this::follow, "order events");
      thread.setDaemon(true);
      thread.start();
      take();
    }

    private void follow() {
      WatchRequest.Builder request = WatchRequest.newBuilder().setReferencePrefix(order).addAllKinds(List.of(
          EventKind.EVENT_KIND_HELD, EventKind.EVENT_KIND_CONFIRMED, EventKind.EVENT_KIND_RELEASED,
          EventKind.EVENT_KIND_EXPIRED, EventKind.EVENT_KIND_REFUSED));
      while (true) {
        try {
          stub.watch(request.build()).forEachRemaining(response -> {
            if (!request.hasResumeToken()) {
              seen.add(Event.getDefaultInstance());
            }
            request.setResumeToken(response.getResumeToken());
            // The prefix order-1 is that of order-10 as well.
            response.getEventsList().stream().filter(event -> event.getReference().equals(order)).forEach(seen::add);
          });
        } catch (StatusRuntimeException error) {
          if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) {
            seen.add(new Refused("Watch", error));
            return;
          }
        }
        try {
          Thread.sleep(200);
        } catch (InterruptedException error) {
          return;
        }
      }
    }

    private Event take() throws InterruptedException {
      Object found = seen.poll(EVENT_SECONDS, TimeUnit.SECONDS);
      if (found == null) {
        throw new IllegalStateException("no event");
      }
      if (found instanceof Refused refused) {
        throw refused;
      }
      return (Event) found;
    }

    void printUntil(String last) throws InterruptedException {
      String kind;
      do {
        Event event = take();
        kind = event.getKind().name().substring("EVENT_KIND_".length());
        say("event " + kind + event.getLinesList().stream()
            .map(line -> " " + line.getQuantity() + " " + line.getSku()).collect(Collectors.joining()));
      } while (!kind.equals(last));
    }
  }

  /** How a checkout has ended. */
  private record Result(int status, String line) {}

  private final Options options;
  private final StockServiceGrpc.StockServiceBlockingStub stock;
  private final ReservationServiceGrpc.ReservationServiceBlockingStub reservations;
  private final EventServiceGrpc.EventServiceBlockingStub events;

  private Checkout(ManagedChannel channel, Options options) {
    this.options = options;
    stock = prepare(StockServiceGrpc.newBlockingStub(channel));
    reservations = prepare(ReservationServiceGrpc.newBlockingStub(channel));
    events = prepare(EventServiceGrpc.newBlockingStub(channel));
  }

  /** Every call says who calls, and waits for a server that is away, until its deadline. */
  private static <T extends AbstractStub<T>> T prepare(T stub) {
    Metadata metadata = new Metadata();
    String token = System.getenv("HOLDFAST_TOKEN");
    if (token != null && !token.isEmpty()) {
      metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    }
    ClientInterceptor who = MetadataUtils.newAttachHeadersInterceptor(metadata);
    return stub.withInterceptors(who).withWaitForReady();
  }

  /** Makes a call with its deadline. What is sent has a key or an id, so that it may be sent again as it is. */
  private <S extends AbstractStub<S>, T> T call(String name, S stub, Function<S, T> send) {
    for (int number = 1; ; number++) {
      try {
        return send.apply(stub.withDeadlineAfter((long) (options.deadline * 1e9), TimeUnit.NANOSECONDS));
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() != Status.Code.DEADLINE_EXCEEDED || number == TRIES) {
          throw new Refused(name, error);
        }
        say("again " + name + ": DEADLINE_EXCEEDED");
      }
    }
  }

  private void setStock(long units) {
    AdjustStockRequest request = AdjustStockRequest.newBuilder().setIdempotencyKey(options.order + "/stock")
        .setSku(options.sku).setSetOnHand(units).setAnyVersion(true).setReason("delivery").build();
    var level = call("AdjustStock", stock, stub -> stub.adjustStock(request)).getStock();
    say("stock " + level.getSku() + ": " + level.getOnHand() + " on hand, " + level.getAvailable() + " available");
  }

  private ReserveResponse reserve() {
    ReserveRequest request = ReserveRequest.newBuilder()
        // The same on every retry of this attempt, another for the customer's next.
        .setIdempotencyKey(options.order + "/" + options.attempt).setReference(options.order)
        .addLines(ReservationLine.newBuilder().setSku(options.sku).setQuantity(options.units))
        .setTtl(Duration.newBuilder().setSeconds(options.ttl)).build();
    ReserveResponse held = call("Reserve", reservations, stub -> stub.reserve(request));
    say("held " + options.units + " " + options.sku + " (" + stateOf(held) + ")" + replayed(held.getReplayed()));
    return held;
  }

  private static String stateOf(ReserveResponse held) {
    return held.getState().name().substring("RESERVATION_STATE_".length());
  }

  private static String replayed(boolean is) {
    return is ? ", replayed" : "";
  }

  /** True if the customer has paid. A real payment has an idempotency key of its own, too. */
  private boolean isPaid() throws IOException {
    String answer = options.payment;
    if (answer.equals("ask")) {
      say("payment? ok or declined");
      answer = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).readLine();
    }
    boolean isOk = answer != null && answer.strip().equals("ok");
    say(isOk ? "payment ok" : "payment declined");
    return isOk;
  }

  private void ended(String word, Reservation reservation, boolean isReplay) {
    long units = reservation.getLinesList().stream().mapToLong(ReservationLine::getQuantity).sum();
    say(word + " " + units + " " + options.sku + replayed(isReplay));
  }

  /** How the hold has ended: a refusal says that it fell due before. */
  private String release(String id) {
    ReleaseRequest request = ReleaseRequest.newBuilder().setReservationId(id).build();
    try {
      var response = call("Release", reservations, stub -> stub.release(request));
      ended("released", response.getReservation(), response.getReplayed());
      return "RELEASED";
    } catch (Refused refused) {
      if (!refused.reason().equals("RESERVATION_EXPIRED")) {
        throw refused;
      }
      refused.explain();
      return "EXPIRED";
    }
  }

  private void confirm(String id) {
    // The money is here: a hold that fell due meanwhile is taken again, if there still is stock.
    ConfirmRequest request = ConfirmRequest.newBuilder().setReservationId(id).setReacquireIfExpired(true).build();
    var response = call("Confirm", reservations, stub -> stub.confirm(request));
    ended("confirmed", response.getReservation(), response.getReplayed());
  }

  private Result run() throws InterruptedException, IOException {
    if (options.stock >= 0) {
      setStock(options.stock);
    }
    OrderEvents seen = new OrderEvents(events, options.order);
    say("watching " + options.order);
    ReserveResponse held;
    try {
      held = reserve();
    } catch (Refused refused) {
      return turnedDown(refused, () -> null, refused.isReplay() ? null : "REFUSED", seen);
    }
    switch (held.getState()) {
      case RESERVATION_STATE_HELD:
        break;
      case RESERVATION_STATE_CONFIRMED:
        return new Result(SOLD, "sold");
      default:
        return new Result(NOT_SOLD, "not sold: the hold is " + stateOf(held));
    }
    // By the server's clock: this machine's may be wrong, so expires_at says nothing here.
    if (Durations.toMillis(held.getRemaining()) < PAYMENT_MILLISECONDS || !isPaid()) {
      seen.printUntil(release(held.getReservationId()));
      return new Result(NOT_SOLD, "not sold: no payment");
    }
    try {
      confirm(held.getReservationId());
    } catch (Refused refused) {
      return turnedDown(refused, () -> "refunded", "EXPIRED", seen);
    }
    seen.printUntil("CONFIRMED");
    return new Result(SOLD, "sold");
  }

  /** The end of a sale that the server refused, behind the last of its events. */
  private static Result turnedDown(Refused refused, Supplier<String> remark, String lastEvent, OrderEvents seen)
      throws InterruptedException {
    if (!refused.isDecision()) {
      throw refused;
    }
    refused.explain();
    if (remark.get() != null) {
      say(remark.get());
    }
    if (lastEvent != null) {
      seen.printUntil(lastEvent);
    }
    return new Result(NOT_SOLD, "not sold: " + refused.reason());
  }

  private static void say(String text) {
    System.out.println(text);
  }

  /** The command line. */
  private static final class Options {
    private final Map<String, String> values = new HashMap<>();
    final String target;
    final String sku;
    final String order;
    final String payment;
    final String tlsAuthority;
    final String tlsName;
    final long units;
    final long stock;
    final long ttl;
    final int attempt;
    final double deadline;

    Options(String[] arguments) {
      List<String> known = List.of("--target", "--sku", "--units", "--order", "--attempt", "--stock", "--ttl", "--payment",
          "--deadline", "--tls-ca", "--tls-name");
      for (int at = 0; at < arguments.length; at += 2) {
        if (!known.contains(arguments[at]) || at + 1 == arguments.length) {
          throw new IllegalArgumentException("unknown or without a value: " + arguments[at] + "; known: " + known);
        }
        values.put(arguments[at], arguments[at + 1]);
      }
      target = get("--target", System.getenv().getOrDefault("HOLDFAST_TARGET", "127.0.0.1:7420"));
      sku = get("--sku", null);
      order = get("--order", null);
      units = number("--units", 1);
      attempt = (int) number("--attempt", 1);
      stock = number("--stock", -1);
      ttl = number("--ttl", 60);
      payment = get("--payment", "ok");
      deadline = Double.parseDouble(get("--deadline", "5"));
      tlsAuthority = get("--tls-ca", System.getenv("HOLDFAST_TLS_CA"));
      tlsName = get("--tls-name", null);
      if (sku == null || order == null) {
        throw new IllegalArgumentException("--sku and --order are needed");
      }
      if (!List.of("ok", "declined", "ask").contains(payment)) {
        throw new IllegalArgumentException("--payment is ok, declined or ask");
      }
    }

    private String get(String name, String otherwise) {
      return values.getOrDefault(name, otherwise);
    }

    private long number(String name, long otherwise) {
      try {
        return values.containsKey(name) ? Long.parseLong(values.get(name)) : otherwise;
      } catch (NumberFormatException error) {
        throw new IllegalArgumentException(name + " is no number", error);
      }
    }
  }

  private static ManagedChannel connect(Options options) throws IOException {
    ChannelCredentials credentials = options.tlsAuthority == null ? InsecureChannelCredentials.create()
        : TlsChannelCredentials.newBuilder().trustManager(new File(options.tlsAuthority)).build();
    try (Reader policy = new InputStreamReader(
        Checkout.class.getResourceAsStream("/retry-policy.json"), StandardCharsets.UTF_8)) {
      @SuppressWarnings("unchecked")
      Map<String, ?> config = new Gson().fromJson(policy, Map.class);
      var builder = Grpc.newChannelBuilder(options.target, credentials).defaultServiceConfig(config).enableRetry()
          .keepAliveTime(30, TimeUnit.SECONDS);
      if (options.tlsName != null) {
        builder.overrideAuthority(options.tlsName);
      }
      return builder.build();
    }
  }

  /** Runs it. Exit status: 0 sold, 1 not sold, 2 wrong flags, 3 failed. */
  public static void main(String[] arguments) throws IOException, InterruptedException {
    Options options = null;
    try {
      options = new Options(arguments);
    } catch (IllegalArgumentException error) {
      System.err.println(error.getMessage());
      System.exit(2);
    }
    Result result;
    try {
      result = new Checkout(connect(options), options).run();
    } catch (Refused refused) {
      refused.explain();
      result = new Result(FAILED, "failed: " + refused.reason());
    } catch (IllegalStateException error) {
      result = new Result(FAILED, "failed: " + error.getMessage());
    }
    say(result.line());
    System.exit(result.status());
  }
}
