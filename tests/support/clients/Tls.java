import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * Delivers over TLS with Java's own sockets: PORT CA VERSION MESSAGES [CERTIFICATE KEY ALGORITHM]. MESSAGES is a file of
 * frames; prints the answers as they come, frames and all. Ends with 1 and the error when there is none.
 */
public class Tls {
  public static void main(String[] args) throws Exception {
    try {
      deliver(args);
    } catch (IOException error) {
      System.err.println(error);
      System.exit(1);
    }
  }

  private static void deliver(String[] args) throws Exception {
    KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
    trusted.load(null, null);
    trusted.setCertificateEntry("ca", certificate(args[1]));
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(trusted);
    KeyManagerFactory own = null;
    if (args.length > 4) {
      KeyStore keys = KeyStore.getInstance(KeyStore.getDefaultType());
      keys.load(null, null);
      char[] none = new char[0];
      keys.setKeyEntry("own", key(args[5], args[6]), none, new Certificate[] {certificate(args[4])});
      own = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
      own.init(keys, none);
    }
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(own == null ? null : own.getKeyManagers(), trust.getTrustManagers(), null);
    byte[] frames = Files.readAllBytes(Paths.get(args[3]));
    int expected = 0;
    for (byte b : frames) {
      if (b == 28) expected += 1;
    }
    try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket("localhost", Integer.parseInt(args[0]))) {
      socket.setSoTimeout(20000);
      socket.setEnabledProtocols(new String[] {args[2]});
      socket.getOutputStream().write(frames);
      socket.getOutputStream().flush();
      InputStream in = socket.getInputStream();
      for (int answered = 0; answered < expected; ) {
        int b = in.read();
        if (b < 0) throw new IOException("closed");
        if (b == 28) answered += 1;
        System.out.write(b);
      }
      // The CR behind the last FS.
      System.out.write(in.read());
      System.out.flush();
    }
  }

  private static Certificate certificate(String path) throws Exception {
    try (FileInputStream in = new FileInputStream(path)) {
      return CertificateFactory.getInstance("X.509").generateCertificate(in);
    }
  }

  private static PrivateKey key(String path, String algorithm) throws Exception {
    String pem = new String(Files.readAllBytes(Paths.get(path)), StandardCharsets.US_ASCII);
    byte[] der = Base64.getMimeDecoder().decode(pem.replaceAll("-----[A-Z ]+-----", ""));
    return KeyFactory.getInstance(algorithm).generatePrivate(new PKCS8EncodedKeySpec(der));
  }
}
