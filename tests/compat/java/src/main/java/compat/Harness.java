package compat;

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.common.exception.EtcdException;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.vertx.core.json.JsonObject;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * How this program is told what to check, and says what it found.
 *
 * <p>The first line of input names the members; the arguments name the checks, in order ("list" prints the names of
 * all). The answer to each is a line "PASS name" or "FAIL name: why". What only the one who runs the members can do is
 * asked for by a line "ASK {...}", answered by a line of input.
 */
final class Harness {
    private static final long CHECK_TIMEOUT_S = 60;

    interface Check {
        void run() throws Exception;
    }

    interface Claim {
        boolean holds() throws Exception;
    }

    static final class Failure extends RuntimeException {
        Failure(String why) {
            super(why);
        }
    }

    private static final BufferedReader input =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    private static final Map<String, Check> checks = new LinkedHashMap<>();
    private static final Deque<Check> cleanups = new ArrayDeque<>();
    private static String current = "";
    private static JsonObject members = new JsonObject();

    private Harness() {}

    static void check(String name, Check check) {
        checks.put(name, check);
    }

    static JsonObject members() {
        return members;
    }

    /** Done when the check has ended, the last one first. */
    static void cleanup(Check action) {
        cleanups.push(action);
    }

    static ByteSequence bytes(String text) {
        return ByteSequence.from(text, StandardCharsets.UTF_8);
    }

    /** A key that no other check uses; so is everything that begins with key(""). */
    static ByteSequence key(String suffix) {
        return bytes(current + "/" + suffix);
    }

    /** Have something done to the members; the answer, where it is an object. */
    static JsonObject ask(String what) throws Exception {
        System.out.println("ASK " + new JsonObject().put("do", what).encode());
        JsonObject reply = line();
        if (reply.containsKey("error")) {
            throw new Failure(what + ": " + reply.getString("error"));
        }
        return reply.getValue("answer") instanceof JsonObject answer ? answer : new JsonObject();
    }

    /** What a call gives in the end. */
    static <V> V got(CompletableFuture<V> call) throws Exception {
        try {
            return call.get(30, TimeUnit.SECONDS);
        } catch (ExecutionException error) {
            throw error.getCause() instanceof Exception cause ? cause : error;
        }
    }

    static void is(String what, boolean claim) {
        if (!claim) {
            throw new Failure("not so: " + what);
        }
    }

    static void equal(String what, Object got, Object want) {
        if (!Objects.equals(String.valueOf(got), String.valueOf(want))) {
            throw new Failure(what + ": " + got + ", not " + want);
        }
    }

    /** The library has an exception of its own for some calls and hands out gRPC's for others. */
    static void refused(String what, Status.Code code, String text, Callable<CompletableFuture<?>> call)
            throws Exception {
        Object result;
        try {
            result = got(call.call());
        } catch (EtcdException error) {
            equal(what, error.getErrorCode() + " " + error.getMessage(), code + " " + text);
            return;
        } catch (StatusRuntimeException error) {
            Status status = error.getStatus();
            equal(what, status.getCode() + " " + status.getDescription(), code + " " + text);
            return;
        }
        throw new Failure(what + ": not refused, but " + result);
    }

    /** Wait until the claim holds; the check's own time is the limit. */
    static void eventually(String what, Claim claim) throws Exception {
        while (!claim.holds()) {
            Thread.sleep(50);
        }
    }

    static void main(String[] arguments) throws Exception {
        if (arguments.length == 1 && arguments[0].equals("list")) {
            System.out.println(String.join("\n", checks.keySet()));
            return;
        }
        members = line();
        List<String> names = arguments.length > 0 ? Arrays.asList(arguments) : List.copyOf(checks.keySet());
        ExecutorService thread = Executors.newCachedThreadPool(task -> {
            Thread made = new Thread(task);
            made.setDaemon(true);
            return made;
        });
        for (String name : names) {
            current = name;
            String why = outcome(thread, checks.get(name));
            System.out.println(why.isEmpty() ? "PASS " + name : "FAIL " + name + ": " + why.replace("\n", " | "));
        }
    }

    private static String outcome(ExecutorService thread, Check check) {
        Future<?> running = thread.submit(() -> {
            check.run();
            return null;
        });
        try {
            running.get(CHECK_TIMEOUT_S, TimeUnit.SECONDS);
            return "";
        } catch (TimeoutException error) {
            running.cancel(true);
            return "the time is up";
        } catch (InterruptedException error) {
            return error.toString();
        } catch (ExecutionException error) {
            Throwable cause = error.getCause();
            String where = Arrays.stream(cause.getStackTrace())
                    .filter(frame -> frame.getClassName().startsWith("compat.Checks"))
                    .findFirst()
                    .map(frame -> frame.getFileName() + ":" + frame.getLineNumber() + ": ")
                    .orElse("");
            return where + (cause instanceof Failure ? cause.getMessage() : cause.toString());
        } finally {
            while (!cleanups.isEmpty()) {
                try {
                    cleanups.pop().run();
                } catch (Exception error) {
                    System.err.println("cleaning up after " + current + ": " + error);
                }
            }
        }
    }

    private static JsonObject line() throws Exception {
        String line = input.readLine();
        if (line == null) {
            throw new IllegalStateException("no answer");
        }
        return new JsonObject(line);
    }
}
