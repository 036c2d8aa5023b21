import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.List;
import org.jetbrains.kotlin.cli.common.ExitCode;
import org.jetbrains.kotlin.cli.jvm.K2JVMCompiler;

/**
 * Compiles modules one after another in one process, which is faster than a process for each. The file that is named
 * has one argument a line, and an empty line behind each module; -module-name stands first.
 */
public final class Compile {
  public static void main(String[] arguments) throws Exception {
    long start = System.nanoTime();
    List<String> module = new ArrayList<>();
    for (String line : Files.readAllLines(Paths.get(arguments[0]))) {
      if (!line.isEmpty()) {
        module.add(line);
        continue;
      }
      ExitCode code = new K2JVMCompiler().exec(System.err, module.toArray(new String[0]));
      System.out.printf("   %4d s  %s%n", (System.nanoTime() - start) / 1_000_000_000, module.get(1));
      if (code != ExitCode.OK) System.exit(1);
      module.clear();
    }
  }
}
