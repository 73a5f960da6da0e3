// Runs Apache's command-line tools one after the other in one JVM, because starting one takes longer than most tools do.
// Each line of the standard input is a call: fields in hex, separated by spaces: the class, the standard input, and the
// arguments. Each line of the standard output is the answer: exit status, standard output, standard error, in hex.
// What a tool would do when its process ends, shutdown hooks, is done when its main method is over.

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.common.utils.Exit;

public final class ToolRunner {
    static final int RUNNING = -1;

    /** Thrown where a tool would end its process. */
    static final class Ended extends Error {
        Ended() {
            super("ended", null, false, false);
        }
    }

    public static void main(String[] args) throws Exception {
        BufferedReader calls = new BufferedReader(new InputStreamReader(System.in));
        PrintStream answers = System.out;
        AtomicInteger status = new AtomicInteger(RUNNING);
        List<Runnable> hooks = new ArrayList<>();
        Exit.setExitProcedure((code, message) -> end(status, code));
        Exit.setHaltProcedure((code, message) -> end(status, code));
        Exit.setShutdownHookAdder((name, runnable) -> {
            synchronized (hooks) {
                hooks.add(runnable);
            }
        });
        HexFormat hex = HexFormat.of();
        for (String line = calls.readLine(); line != null; line = calls.readLine()) {
            List<byte[]> fields = new ArrayList<>();
            for (String field : line.split(" ", -1)) {
                fields.add(hex.parseHex(field));
            }
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            ByteArrayOutputStream err = new ByteArrayOutputStream();
            System.setIn(new ByteArrayInputStream(fields.get(1)));
            System.setOut(new PrintStream(out, true, "UTF-8"));
            System.setErr(new PrintStream(err, true, "UTF-8"));
            String[] arguments = fields.stream().skip(2).map(String::new).toArray(String[]::new);
            status.set(RUNNING);
            try {
                Class.forName(new String(fields.get(0))).getMethod("main", String[].class).invoke(null, (Object) arguments);
            } catch (InvocationTargetException thrown) {
                if (!(thrown.getCause() instanceof Ended)) {
                    thrown.getCause().printStackTrace();
                    status.compareAndSet(RUNNING, 1);
                }
            }
            synchronized (hooks) {
                hooks.forEach(Runnable::run);
                hooks.clear();
            }
            System.out.flush();
            System.err.flush();
            answers.println(Math.max(status.get(), 0) + " " + hex.formatHex(out.toByteArray()) + " "
                + hex.formatHex(err.toByteArray()));
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    /** The first status counts: tools that catch everything end a second time. */
    static void end(AtomicInteger status, int code) {
        status.compareAndSet(RUNNING, code);
        throw new Ended();
    }
}
