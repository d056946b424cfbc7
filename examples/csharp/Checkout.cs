// One checkout against Holdfast: hold units, take the payment, confirm or release. README.md says how to run it.
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Security.Cryptography.X509Certificates;
using System.Text.Json;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
using Grpc.Net.Client;
using Grpc.Net.Client.Configuration;
using Holdfast.V1;

namespace Holdfast.Examples;

/// <summary>A call that ended with an error: its status, and what the server says about it.</summary>
internal sealed class Refused(string call, RpcException error) : Exception(error.Status.Detail, error)
{
    private readonly Google.Rpc.Status? status = error.GetRpcStatus();
    private readonly ErrorInfo? info = error.GetRpcStatus()?.GetDetail<ErrorInfo>();

    /// <summary>As in gRPC's documents: FAILED_PRECONDITION.</summary>
    private string CodeName => string.Concat(error.StatusCode.ToString().Select(
        (letter, at) => at > 0 && char.IsUpper(letter) ? $"_{letter}" : $"{char.ToUpperInvariant(letter)}"));

    public string Reason => info?.Reason ?? CodeName;

    public bool IsReplay => info is not null && info.Metadata.TryGetValue("replayed", out var value) && value == "true";

    /// <summary>Of the calls of a checkout these two codes are decisions; all others say that none was made.</summary>
    public bool IsDecision => info is not null && error.StatusCode is StatusCode.FailedPrecondition or StatusCode.NotFound;

    public void Explain()
    {
        Console.WriteLine($"refused {call}: {CodeName}");
        if (status is null)
        {
            // Not from the server: for people who look for what is wrong with the connection.
            Console.Error.WriteLine(Message);
            return;
        }
        Console.WriteLine($"  message {status.Message}");
        if (info is not null)
        {
            var values = string.Join(", ", info.Metadata.OrderBy(each => each.Key, StringComparer.Ordinal)
                .Select(each => $"{each.Key}={each.Value}"));
            Console.WriteLine($"  reason {info.Reason}{(values.Length > 0 ? ": " : "")}{values}");
        }
        if (status.GetDetail<RetryInfo>() is { } retry)
        {
            Console.WriteLine($"  retry after {retry.RetryDelay.ToTimeSpan().TotalMilliseconds:0} ms");
        }
        foreach (var each in status.GetDetail<PreconditionFailure>()?.Violations ?? [])
        {
            Console.WriteLine($"  failed {each.Subject}: {each.Description}");
        }
        foreach (var each in status.GetDetail<BadRequest>()?.FieldViolations ?? [])
        {
            Console.WriteLine($"  field {each.Field}: {each.Description}");
        }
    }
}

internal sealed class NoEvent() : Exception("no event");

/// <summary>The command line.</summary>
internal sealed record Options
{
    public required string Target { get; init; }
    public required string Sku { get; init; }
    public required string Order { get; init; }
    public required string Payment { get; init; }
    public required string? TlsAuthority { get; init; }
    public required string? TlsName { get; init; }
    public required long Units { get; init; }
    public required long Attempt { get; init; }
    public required long? Stock { get; init; }
    public required long Ttl { get; init; }
    public required double Deadline { get; init; }

    /// <exception cref="FormatException">It cannot be understood.</exception>
    public static Options Parse(string[] arguments)
    {
        string[] known = ["--target", "--sku", "--units", "--order", "--attempt", "--stock", "--ttl", "--payment",
            "--deadline", "--tls-ca", "--tls-name"];
        var values = new Dictionary<string, string>();
        for (var at = 0; at < arguments.Length; at += 2)
        {
            if (!known.Contains(arguments[at]) || at + 1 == arguments.Length)
            {
                throw new FormatException($"unknown or without a value: {arguments[at]}");
            }
            values[arguments[at]] = arguments[at + 1];
        }
        string? Text(string name) => values.GetValueOrDefault(name);
        long? Number(string name) => Text(name) is not { } text ? null
            : long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var number) ? number
            : throw new FormatException($"{name} is no number");
        var payment = Text("--payment") ?? "ok";
        if (payment is not ("ok" or "declined" or "ask"))
        {
            throw new FormatException("--payment is ok, declined or ask");
        }
        return new Options
        {
            Target = Text("--target") ?? Environment.GetEnvironmentVariable("HOLDFAST_TARGET") ?? "127.0.0.1:7420",
            Sku = Text("--sku") ?? throw new FormatException("--sku is needed"),
            Order = Text("--order") ?? throw new FormatException("--order is needed"),
            Payment = payment,
            TlsAuthority = Text("--tls-ca") ?? Environment.GetEnvironmentVariable("HOLDFAST_TLS_CA"),
            TlsName = Text("--tls-name"),
            Units = Number("--units") ?? 1,
            Attempt = Number("--attempt") ?? 1,
            Stock = Number("--stock"),
            Ttl = Number("--ttl") ?? 60,
            Deadline = double.Parse(Text("--deadline") ?? "5", CultureInfo.InvariantCulture),
        };
    }
}

/// <summary>The events of one order, from when the stream stands on.</summary>
internal sealed class OrderEvents : IAsyncDisposable
{
    private static readonly TimeSpan LongestWait = TimeSpan.FromSeconds(30);
    private readonly CancellationTokenSource end = new();
    private readonly IAsyncEnumerator<Event?> seen;

    private OrderEvents(EventService.EventServiceClient service, CallOptions call, string order) =>
        seen = Follow(service, call, order, end.Token).GetAsyncEnumerator();

    public static async Task<OrderEvents> Open(EventService.EventServiceClient service, CallOptions call, string order)
    {
        var events = new OrderEvents(service, call, order);
        await events.Next();
        return events;
    }

    /// <summary>null first; then its events. Goes on with the resume token where the stream breaks.</summary>
    private static async IAsyncEnumerable<Event?> Follow(
        EventService.EventServiceClient service, CallOptions call, string order, [EnumeratorCancellation] CancellationToken end)
    {
        var request = new WatchRequest
        {
            ReferencePrefix = order,
            Kinds = { EventKind.Held, EventKind.Confirmed, EventKind.Released, EventKind.Expired, EventKind.Refused },
        };
        while (true)
        {
            using var stream = service.Watch(request, call.WithCancellationToken(end));
            while (true)
            {
                try
                {
                    if (!await stream.ResponseStream.MoveNext(end))
                    {
                        break;
                    }
                }
                catch (RpcException error) when (error.StatusCode == StatusCode.Unavailable)
                {
                    break;
                }
                catch (RpcException error)
                {
                    throw new Refused("Watch", error);
                }
                if (request.StartCase != WatchRequest.StartOneofCase.ResumeToken)
                {
                    yield return null;
                }
                var response = stream.ResponseStream.Current;
                request.ResumeToken = response.ResumeToken;
                // The prefix order-1 is that of order-10 as well.
                foreach (var found in response.Events.Where(each => each.Reference == order))
                {
                    yield return found;
                }
            }
            await Task.Delay(200, end);
        }
    }

    private async Task<Event?> Next()
    {
        end.CancelAfter(LongestWait);
        try
        {
            return await seen.MoveNextAsync() ? seen.Current : throw new NoEvent();
        }
        catch (OperationCanceledException)
        {
            throw new NoEvent();
        }
        catch (Refused refused) when (refused.InnerException is RpcException { StatusCode: StatusCode.Cancelled })
        {
            throw new NoEvent();
        }
        finally
        {
            end.CancelAfter(Timeout.InfiniteTimeSpan);
        }
    }

    public async Task PrintUntil(EventKind last)
    {
        while (await Next() is { } found)
        {
            var lines = string.Concat(found.Lines.Select(line => $" {line.Quantity} {line.Sku}"));
            Console.WriteLine($"event {found.Kind.ToString().ToUpperInvariant()}{lines}");
            if (found.Kind == last)
            {
                return;
            }
        }
    }

    public async ValueTask DisposeAsync()
    {
        await seen.DisposeAsync();
        end.Dispose();
    }
}

/// <summary>From the first call to the last line.</summary>
internal sealed class Checkout(GrpcChannel channel, Options options)
{
    /// <summary>Tries of a call whose answer did not come in time. What is UNAVAILABLE the channel retries by its
    /// policy.</summary>
    private const int Tries = 3;

    /// <summary>A hold that has less left than a payment takes is not worth one.</summary>
    private static readonly TimeSpan PaymentTime = TimeSpan.FromMilliseconds(500);

    private const int Sold = 0;
    private const int NotSold = 1;
    private const int WrongFlags = 2;
    private const int Failed = 3;

    private readonly StockService.StockServiceClient stock = new(channel);
    private readonly ReservationService.ReservationServiceClient reservations = new(channel);
    private readonly EventService.EventServiceClient events = new(channel);

    /// <summary>Of every call: who calls. It waits for a server that is away, until its deadline.</summary>
    private static CallOptions Who()
    {
        var metadata = new Metadata();
        if (Environment.GetEnvironmentVariable("HOLDFAST_TOKEN") is { Length: > 0 } token)
        {
            metadata.Add("authorization", $"Bearer {token}");
        }
        return new CallOptions(metadata).WithWaitForReady();
    }

    /// <summary>Makes a call with its deadline. What is sent has a key or an id, so that it may be sent again as it
    /// is.</summary>
    private async Task<T> Call<T>(string name, Func<CallOptions, AsyncUnaryCall<T>> send)
    {
        for (var number = 1; ; number++)
        {
            try
            {
                return await send(Who().WithDeadline(DateTime.UtcNow.AddSeconds(options.Deadline)));
            }
            catch (RpcException error) when (error.StatusCode == StatusCode.DeadlineExceeded && number < Tries)
            {
                Console.WriteLine($"again {name}: DEADLINE_EXCEEDED");
            }
            catch (RpcException error)
            {
                throw new Refused(name, error);
            }
        }
    }

    private async Task SetStock(long units)
    {
        var request = new AdjustStockRequest
        {
            IdempotencyKey = $"{options.Order}/stock",
            Sku = options.Sku,
            SetOnHand = units,
            AnyVersion = true,
            Reason = "delivery",
        };
        var level = (await Call("AdjustStock", call => stock.AdjustStockAsync(request, call))).Stock;
        Console.WriteLine($"stock {level.Sku}: {level.OnHand} on hand, {level.Available} available");
    }

    private async Task<ReserveResponse> Reserve()
    {
        var request = new ReserveRequest
        {
            // The same on every retry of this attempt, another for the customer's next.
            IdempotencyKey = $"{options.Order}/{options.Attempt}",
            Reference = options.Order,
            Lines = { new ReservationLine { Sku = options.Sku, Quantity = options.Units } },
            Ttl = Duration.FromTimeSpan(TimeSpan.FromSeconds(options.Ttl)),
        };
        var held = await Call("Reserve", call => reservations.ReserveAsync(request, call));
        Console.WriteLine($"held {options.Units} {options.Sku} ({StateOf(held)}){Replayed(held.Replayed)}");
        return held;
    }

    private static string StateOf(ReserveResponse held) => held.State.ToString().ToUpperInvariant();

    private static string Replayed(bool isReplay) => isReplay ? ", replayed" : "";

    /// <summary>True if the customer has paid. A real payment has an idempotency key of its own, too.</summary>
    private bool IsPaid()
    {
        var answer = options.Payment;
        if (answer == "ask")
        {
            Console.WriteLine("payment? ok or declined");
            answer = Console.ReadLine()?.Trim();
        }
        Console.WriteLine(answer == "ok" ? "payment ok" : "payment declined");
        return answer == "ok";
    }

    private void Ended(string word, Reservation reservation, bool isReplay) =>
        Console.WriteLine($"{word} {reservation.Lines.Sum(line => line.Quantity)} {options.Sku}{Replayed(isReplay)}");

    /// <summary>How the hold has ended: a refusal says that it fell due before.</summary>
    private async Task<EventKind> Release(string id)
    {
        try
        {
            var request = new ReleaseRequest { ReservationId = id };
            var response = await Call("Release", call => reservations.ReleaseAsync(request, call));
            Ended("released", response.Reservation, response.Replayed);
            return EventKind.Released;
        }
        catch (Refused refused) when (refused.Reason == "RESERVATION_EXPIRED")
        {
            refused.Explain();
            return EventKind.Expired;
        }
    }

    private async Task Confirm(string id)
    {
        // The money is here: a hold that fell due meanwhile is taken again, if there still is stock.
        var request = new ConfirmRequest { ReservationId = id, ReacquireIfExpired = true };
        var response = await Call("Confirm", call => reservations.ConfirmAsync(request, call));
        Ended("confirmed", response.Reservation, response.Replayed);
    }

    /// <summary>The status, and the last line.</summary>
    private async Task<(int, string)> Run()
    {
        if (options.Stock is { } units)
        {
            await SetStock(units);
        }
        await using var seen = await OrderEvents.Open(events, Who(), options.Order);
        Console.WriteLine($"watching {options.Order}");
        ReserveResponse held;
        try
        {
            held = await Reserve();
        }
        catch (Refused refused) when (refused.IsDecision)
        {
            refused.Explain();
            if (!refused.IsReplay)
            {
                await seen.PrintUntil(EventKind.Refused);
            }
            return (NotSold, $"not sold: {refused.Reason}");
        }
        switch (held.State)
        {
            case ReservationState.Held:
                break;
            case ReservationState.Confirmed:
                return (Sold, "sold");
            default:
                return (NotSold, $"not sold: the hold is {StateOf(held)}");
        }
        // By the server's clock: this machine's may be wrong, so ExpiresAt says nothing here.
        if (held.Remaining.ToTimeSpan() < PaymentTime || !IsPaid())
        {
            await seen.PrintUntil(await Release(held.ReservationId));
            return (NotSold, "not sold: no payment");
        }
        try
        {
            await Confirm(held.ReservationId);
        }
        catch (Refused refused) when (refused.IsDecision)
        {
            refused.Explain();
            Console.WriteLine("refunded");
            await seen.PrintUntil(EventKind.Expired);
            return (NotSold, $"not sold: {refused.Reason}");
        }
        await seen.PrintUntil(EventKind.Confirmed);
        return (Sold, "sold");
    }

    /// <summary>proto/retry-policy.json as the library's classes: it reads no JSON.</summary>
    private static ServiceConfig Policy()
    {
        using var file = typeof(Checkout).Assembly.GetManifestResourceStream("retry-policy.json")!;
        var root = JsonDocument.Parse(file).RootElement;
        static TimeSpan Seconds(JsonElement text) =>
            TimeSpan.FromSeconds(double.Parse(text.GetString()!.TrimEnd('s'), CultureInfo.InvariantCulture));
        // RESOURCE_EXHAUSTED is ResourceExhausted here.
        static StatusCode Code(JsonElement text) =>
            System.Enum.Parse<StatusCode>(text.GetString()!.Replace("_", ""), ignoreCase: true);
        var config = new ServiceConfig();
        foreach (var each in root.GetProperty("methodConfig").EnumerateArray())
        {
            var policy = each.GetProperty("retryPolicy");
            var method = new MethodConfig
            {
                RetryPolicy = new RetryPolicy
                {
                    MaxAttempts = policy.GetProperty("maxAttempts").GetInt32(),
                    InitialBackoff = Seconds(policy.GetProperty("initialBackoff")),
                    MaxBackoff = Seconds(policy.GetProperty("maxBackoff")),
                    BackoffMultiplier = policy.GetProperty("backoffMultiplier").GetDouble(),
                },
            };
            foreach (var code in policy.GetProperty("retryableStatusCodes").EnumerateArray())
            {
                method.RetryPolicy.RetryableStatusCodes.Add(Code(code));
            }
            foreach (var name in each.GetProperty("name").EnumerateArray())
            {
                method.Names.Add(new MethodName { Service = name.GetProperty("service").GetString() });
            }
            config.MethodConfigs.Add(method);
        }
        var throttling = root.GetProperty("retryThrottling");
        config.RetryThrottling = new RetryThrottlingPolicy
        {
            MaxTokens = throttling.GetProperty("maxTokens").GetInt32(),
            TokenRatio = throttling.GetProperty("tokenRatio").GetDouble(),
        };
        return config;
    }

    private static GrpcChannel Connect(Options options)
    {
        var handler = new SocketsHttpHandler { KeepAlivePingDelay = TimeSpan.FromSeconds(30) };
        if (options.TlsAuthority is { } authority)
        {
            var trust = new X509ChainPolicy { TrustMode = X509ChainTrustMode.CustomRootTrust, RevocationMode = X509RevocationMode.NoCheck };
            trust.CustomTrustStore.ImportFromPemFile(authority);
            handler.SslOptions.CertificateChainPolicy = trust;
            handler.SslOptions.TargetHost = options.TlsName;
        }
        var scheme = options.TlsAuthority is null ? "http" : "https";
        return GrpcChannel.ForAddress($"{scheme}://{options.Target}", new GrpcChannelOptions
        {
            HttpHandler = handler,
            DisposeHttpClient = true,
            ServiceConfig = Policy(),
        });
    }

    /// <summary>Runs it. Exit status: 0 sold, 1 not sold, 2 wrong flags, 3 failed.</summary>
    public static async Task<int> Main(string[] arguments)
    {
        Options options;
        try
        {
            options = Options.Parse(arguments);
        }
        catch (FormatException error)
        {
            Console.Error.WriteLine(error.Message);
            return WrongFlags;
        }
        using var channel = Connect(options);
        var (status, last) = (Failed, "");
        try
        {
            (status, last) = await new Checkout(channel, options).Run();
        }
        catch (Refused refused)
        {
            refused.Explain();
            last = $"failed: {refused.Reason}";
        }
        catch (NoEvent error)
        {
            last = $"failed: {error.Message}";
        }
        Console.WriteLine(last);
        return status;
    }
}
